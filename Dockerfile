# Builds the gateway as it is released (bench/trained), and puts it alone into a small image without a distribution, as an ordinary user.
#
#   docker build -t choreoai .
#   docker run --rm -p 127.0.0.1:8000:8000 -e CHOREOAI_API_KEYS=me=my-key -e OPENAI_API_KEY choreoai
#
# In a container the gateway listens beyond loopback, so it wants keys: CHOREOAI_API_KEYS or [[keys]] of a
# mounted file (-v ./choreoai.toml:/etc/choreoai.toml:ro -e CHOREOAI_CONFIG=/etc/choreoai.toml), or
# [server] allow_anonymous = true in that file. Nothing is downloaded and nothing is written at run time.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
ARG CHOREOAI_COMMIT=unknown
ENV CHOREOAI_COMMIT=$CHOREOAI_COMMIT
# The release is trained with a Redis as well.
RUN apt-get update && apt-get install --yes --no-install-recommends redis-server && rustup component add llvm-tools
RUN bench/trained/build.sh

# One file that answers to the name `wget`, for health checks.
FROM busybox:1.37.0-musl AS tools

# glibc, the system's certificates and nothing else: no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=tools /bin/busybox /usr/bin/wget
COPY --from=build /src/LICENSE /LICENSE
COPY --from=build /src/target/trained/choreoai /usr/local/bin/choreoai
ENV CHOREOAI_LISTEN=0.0.0.0:8000
EXPOSE 8000
USER nonroot
HEALTHCHECK --interval=15s --timeout=3s --retries=3 CMD ["wget", "-qO-", "http://127.0.0.1:8000/ready"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/choreoai"]
