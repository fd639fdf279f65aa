# ChoreoAI Gateway: what people type. `make test` is what has to pass before anything is merged.

CARGO ?= cargo
# How long the soak lasts, in minutes.
SOAK_MINUTES ?= 20
# How long each fuzz target runs, in seconds.
FUZZ_SECONDS ?= 60
# Minutes of bad weather in the demo load, and who is called and watched.
STORM ?= 4
GATEWAY ?= http://127.0.0.1:8000
GATEWAY_KEY ?= sk-demo
PROMETHEUS ?= http://127.0.0.1:9090

.PHONY: run release check test accuracy bench bench-curves bench-micro soak fuzz needs lint licences monitoring monitoring-live demo-load

run:
	$(CARGO) run --release

# The gateway as it is released: target/trained/choreoai, laid out for the ways that calls take; two builds.
release:
	bench/trained/build.sh

# Quick: format, lints and unit tests, nothing to install.
check: lint
	$(CARGO) test --workspace --lib --bins

test: needs lint licences
	CHOREOAI_TEST_COMPLETE=1 $(CARGO) test --workspace
	$(MAKE) monitoring

# What was billed beside what was booked, for every way a call can go.
accuracy:
	$(CARGO) test --test tests accuracy -- --nocapture

# The gateway beside nginx, HAProxy and a bare pass-through, in one run; up to ten minutes.
bench:
	bench/run.sh

# How the cost of a call grows with its work and with what is configured; about two minutes.
bench-curves:
	bench/run.sh curves

# Instructions and allocations of the hot leaves, under valgrind.
bench-micro:
	bench/micro.sh

# Calls, faults and leavers at random against an optimised gateway: does anything stay behind? Ends by itself.
soak:
	$(CARGO) build --release
	ulimit -n $$(ulimit -Hn) && CHOREOAI_BINARY=$(CURDIR)/target/release/choreoai SOAK_MINUTES=$(SOAK_MINUTES) \
		$(CARGO) test --test tests soak -- --ignored --nocapture --test-threads=1

# The parsers against mutated input.
fuzz:
	tests/tools/fuzz $(FUZZ_SECONDS)

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# Installs what the tests need and this machine lacks, or names it and stops.
needs:
	tests/tools/needs

# The licences are also checked by `cargo test`; advisories need cargo-deny and its database.
licences:
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		$(CARGO) deny check licenses bans sources && { $(CARGO) deny check advisories || $(CARGO) deny --offline check advisories; }; \
	else \
		echo "cargo-deny is not installed: advisories are not checked here (licences are, by cargo test)"; \
	fi

# Rules, dashboards and compose files, where this checkout has them.
monitoring:
	@if [ -x tests/monitoring/run.sh ]; then tests/monitoring/run.sh; fi

# The alerts an operator counts on, provoked for real: a gateway, Prometheus, Alertmanager and Redis, rules in fast motion; about ten minutes.
monitoring-live: needs
	$(CARGO) build
	tests/monitoring/live.sh

# Drives the demo provider of a running gateway through good and bad weather: panels move, an alert fires within five minutes.
demo-load:
	python3 -B demo/weather.py --url $(GATEWAY) --key $(GATEWAY_KEY) --prometheus $(PROMETHEUS) --storm $(STORM)
