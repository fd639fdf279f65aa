//! The configuration from text and environment to what it means, as tables.
//! It must not know how a setting is carried out.

use std::net::IpAddr;
use std::time::Duration;

use choreoai::config::{Backend, Balance, Config, Credentials, LogFormat, OnDisconnect, OnFailure, Provider, Secret, Unpriced};
use sha2::{Digest, Sha256};

/// What these variables and this file mean, or the message.
fn read(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let variable = |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    Config::from_text(text, &variable).map_err(|error| error.to_string())
}

fn sound(text: &str, environment: &[(&str, &str)]) -> Config {
    read(text, environment).unwrap_or_else(|message| panic!("{message}\nin\n{text}\nwith {environment:?}"))
}

fn provider<'c>(config: &'c Config, name: &str) -> &'c Provider {
    let names: Vec<&str> = config.providers.iter().map(|provider| provider.name.as_str()).collect();
    config.providers.iter().find(|provider| provider.name == name).unwrap_or_else(|| panic!("{name} is not in {names:?}"))
}

fn key(provider: &Provider) -> Option<&str> {
    match &provider.credentials {
        Credentials::Keys(keys) => keys.first().map(Secret::reveal),
        _ => None,
    }
}

#[test]
fn nothing_said_is_the_demo_on_loopback() {
    let config = sound("", &[]);
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8000");
    assert_eq!(config.server.max_body_bytes, 32 * 1024 * 1024);
    assert_eq!((config.server.body_timeout, config.server.shutdown_grace), (Duration::from_secs(30), Duration::from_secs(30)));
    assert_eq!((config.rate_limit.backend, config.rate_limit.on_failure), (Backend::Memory, OnFailure::Local));
    assert_eq!(config.rate_limit.redis_url.reveal(), "redis://127.0.0.1:6379");
    assert_eq!(config.rate_limit.deadline, Duration::from_millis(50));
    assert_eq!(config.rate_limit.per_ip_per_second, None);
    assert_eq!((config.unpriced, config.log.format), (Unpriced::Warn, None));
    assert!(config.providers.is_empty() && config.models.is_empty() && config.keys.is_empty() && config.prices.is_empty());
}

#[test]
fn a_provider_is_its_kind_unless_it_says_more() {
    let config = sound("[providers.openai]\napi_key = \"sk-1\"\n", &[]);
    let openai = provider(&config, "openai");
    assert_eq!((openai.kind.as_str(), openai.base_url.as_str()), ("openai", "https://api.openai.com/v1"));
    assert_eq!((openai.on_disconnect, openai.drain_timeout), (OnDisconnect::Cancel, Duration::from_secs(120)));
    assert_eq!((openai.queue.size, openai.queue.wait), (1024, Duration::from_secs(10)));
    let timeouts = openai.timeouts;
    assert_eq!([timeouts.connect, timeouts.idle, timeouts.total].map(|time| time.as_secs()), [5, 60, 600]);
    let (retry, breaker) = (openai.retry, openai.breaker);
    assert_eq!((retry.attempts, retry.base, retry.max), (3, Duration::from_millis(250), Duration::from_secs(8)));
    assert_eq!((breaker.failures, breaker.window.as_secs(), breaker.open.as_secs()), (5, 30, 15));
    assert_eq!((retry.budget, retry.min_per_second, breaker.slow_first_token), (0.1, 1.0, None));
    assert_eq!(openai.key_cooldown, Duration::from_secs(60));
}

/// What a provider says, what the model says, and the seconds that the first byte of a stream and of a whole answer has.
#[test]
fn a_whole_answer_may_take_the_whole_attempt_unless_somebody_said_otherwise() {
    let cases = [
        ("", "", [60, 600]),
        ("total = \"20m\"", "", [60, 1200]),
        ("", "total = \"15m\"", [60, 900]),
        ("first_byte = \"60s\"", "", [60, 60]),
        ("", "first_byte = \"30s\"", [30, 30]),
        ("first_byte = \"60s\"", "first_byte = \"20m\"", [1200, 1200]),
    ];
    for (of_provider, of_model, seconds) in cases {
        let text = format!(
            "[providers.openai]\napi_key = \"sk-1\"\ntimeouts = {{ {of_provider} }}\n\
             [models.m]\ntargets = [ {{ target = \"openai/x\" }} ]\ntimeouts = {{ {of_model} }}\n"
        );
        let config = sound(&text, &[]);
        let timeouts = config.models[0].timeouts.or(provider(&config, "openai").timeouts);
        assert_eq!([true, false].map(|is_streamed| timeouts.first_byte_of(is_streamed).as_secs()), seconds, "{text}");
    }
}

/// Every mistake, and the words with which it is told, the line first.
const MISTAKES: &[(&str, &[&str])] = &[
    ("[server]\n\nlistne = \"127.0.0.1:1\"\n", &["line 3: ", "unknown key `listne`", "did you mean `listen`?"]),
    ("[servr]\n", &["line 1: ", "`servr`", "did you mean `server`?"]),
    ("[log]\nformatt = \"json\"\n", &["line 2: unknown key `formatt`; did you mean `format`?"]),
    ("[server]\nzzzzzzzzzz = 1\n", &["line 2: unknown key `zzzzzzzzzz`; known here: `listen`, `max_body_bytes`"]),
    ("[providers.openai]\nretry = { attempt = 3 }\n", &["line 2: ", "`attempt`", "did you mean `attempts`?"]),
    ("[models.m]\ntargets = [ { target = \"a/b\", wieght = 1 } ]\n", &["line 2: ", "`wieght`", "did you mean `weight`?"]),
    ("[server\n", &["line 1: "]),
    ("[server]\nmax_body_bytes = \"many\"\n", &["line 2: ", "\"many\"", "expected a whole number"]),
    ("[server]\nmax_body_bytes = -1\n", &["line 2: ", "-1", "expected a whole number, 0 or more"]),
    ("[rate_limit]\nrequests_per_minute = 1.5\n", &["line 2: ", "1.5", "expected a whole number"]),
    ("[models.m]\ntargets = [ \"openai/gpt-4o\" ]\n", &["line 2: ", "expected a table"]),
    ("[models.m]\ntargets = \"openai/gpt-4o\"\n", &["line 2: ", "expected a list"]),
    ("[keys]\nname = \"a\"\n", &["line 1: invalid type: table, expected a list"]),
    ("[providers]\nopenai = \"sk-1\"\n", &["line 2: ", "expected a table"]),
    ("[server]\nlisten = \"8000\"\n", &["line 2: server.listen: \"8000\" is not an address like 127.0.0.1:8000"]),
    ("[server]\ntrusted_proxies = [\"proxy.local\"]\n", &["line 2: server.trusted_proxies: ", "is not an IP address"]),
    ("[server]\nshutdown_grace = \"30\"\n", &["line 2: server.shutdown_grace: \"30\" is not a duration like", "\"30s\""]),
    ("[providers.openai]\n[providers.openai.timeouts]\nidle = \"soon\"\n", &["line 3: providers.openai.timeouts.idle: \"soon\""]),
    ("[providers.openai]\ntimeouts = { idle = \"soon\" }\n", &["line 2: providers.openai.timeouts.idle: \"soon\""]),
    ("[rate_limit]\nbackend = \"memry\"\n", &["line 2: rate_limit.backend: \"memry\" is not one of \"memory\", \"redis\""]),
    ("[rate_limit]\non_failure = \"x\"\n", &["line 2: ", "\"local\", \"open\", \"closed\""]),
    ("[rate_limit]\nredis_url = \"hidden-1@redis:6379\"\n", &["line 2: rate_limit.redis_url: must be an address like redis://"]),
    ("unpriced = \"ignore\"\n", &["line 1: unpriced: ", "\"allow\", \"warn\", \"reject\""]),
    ("[log]\nformat = \"xml\"\n", &["line 2: log.format: ", "\"json\", \"text\""]),
    ("[providers.openai]\non_disconnect = \"x\"\n", &["line 2: providers.openai.on_disconnect: ", "\"cancel\", \"drain\""]),
    ("[providers.openai]\nunsupported = \"x\"\n", &["line 2: ", "\"reject\", \"drop\""]),
    (
        "[providers.openai]\n[models.\"a.b\"]\ntargets = [ { target = \"openai/x\" } ]\nbalance = \"x\"\n",
        &["line 4: models.\"a.b\".balance: ", "\"weighted\", \"least_busy\", \"latency\", \"cost\""],
    ),
    (
        "[providers.openai]\n[models.m]\ntargets = [ { target = \"openai/x\" } ]\nfallback_on = [\"timeout\", \"5xx\"]\n",
        &["line 4: models.\"m\".fallback_on: \"5xx\" is not one of \"server_error\", \"timeout\", \"rate_limit\""],
    ),
    (
        "[providers.openai]\n[models.m]\ntargets = [ { target = \"openai/x\" } ]\nhedge = { percentile = 12 }\n",
        &["line 4: models.\"m\".hedge.percentile: 12 is not within 50 and 99.9"],
    ),
    (
        "[providers.openai]\n[models.m]\ntargets = [ { target = \"openai/x\" } ]\ntimeouts = { connect = \"1s\" }\n",
        &["line 4: ", "`connect`", "`first_byte`, `idle`, `total`"],
    ),
    ("[providers.openai]\nretry = { budget = 20 }\n", &["line 2: providers.openai.retry.budget: 20 is not within 0 and 1"]),
    ("[providers.openai]\nretry = { budget = \"20%\" }\n", &["line 2: ", "expected a number"]),
    (
        "[providers.openai]\napi_key = \"hidden-1\"\napi_keys = [\"hidden-2\"]\n",
        &["line 3: providers.openai.api_keys: give either api_key or api_keys"],
    ),
    ("[providers.openai]\napi_keys = []\n", &["line 2: providers.openai.api_keys: a list of keys, none of them empty"]),
    ("[providers.openai]\napi_keys = [\"hidden-1\", \"hidden-1\"]\n", &["line 2: ", "a key is in it twice"]),
    ("[providers.mine]\nkind = \"opanai\"\n", &["line 2: providers.mine.kind: ", "\"opanai\"", "did you mean \"openai\"?"]),
    ("[providers.mine]\n", &["line 1: providers.mine.kind: there is no kind \"mine\"", "\"openai-compatible\""]),
    ("[providers.mine]\nkind = \"openai-compatible\"\n", &["line 1: providers.mine.base_url: missing", "no address of its own"]),
    ("[providers.openai]\nbase_url = \"api.openai.com\"\n", &["line 2: providers.openai.base_url: must begin with http"]),
    ("[providers.openai]\nbase_url = \"https://me:pw@host/v1\"\n", &["line 2: ", "credentials"]),
    ("[providers.openai]\nbase_url = \"https://host/v1?key=1\"\n", &["line 2: ", "query"]),
    ("[providers.\"a/b\"]\nkind = \"openai\"\n", &["line 1: ", "must not be empty or contain `/`"]),
    ("[models.m]\n", &["line 1: models.\"m\".targets: at least one target"]),
    ("[providers.openai]\n[models.m]\ntargets = [ { target = \"gpt-4o\" } ]\n", &["line 3: ", "not of the form provider/model"]),
    ("[providers.openai]\n[models.m]\ntargets = [ { target = \"openai/\" } ]\n", &["line 3: ", "names no model"]),
    (
        "[providers.openai]\n[models.m]\ntargets = [ { target = \"opnai/x\" } ]\n",
        &["line 3: ", "\"opnai\", which is not configured; did you mean \"openai\"?"],
    ),
    ("[[keys]]\nkey = \"hidden-1\"\n", &["line 1: keys: every key needs a name"]),
    ("[[keys]]\nname = \"a\"\n", &["line 2: keys.a: give either key or key_sha256"]),
    ("[[keys]]\nname = \"a\"\nkey = \"\"\n", &["line 2: keys.a: the key is empty"]),
    ("[[keys]]\nname = \"a\"\nkey = \"hidden-1\"\nkey_sha256 = \"00\"\n", &["keys.a: give either key or key_sha256"]),
    ("[[keys]]\nname = \"a\"\nkey_sha256 = \"00\"\n", &["line 3: keys.a.key_sha256: expected 64 hexadecimal digits"]),
    (
        "[[keys]]\nname = \"a\"\nkey_sha256 = \"+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0\"\n",
        &["expected 64 hexadecimal digits"],
    ),
    (
        "[[keys]]\nname = \"a\"\nkey = \"hidden-1\"\n[[keys]]\nname = \"a\"\nkey = \"hidden-2\"\n",
        &["keys.a: the name is used twice"],
    ),
    (
        "[[keys]]\nname = \"a\"\nkey = \"hidden-1\"\n\n[[keys]]\nname = \"b\"\nkey = \"hidden-1\"\n",
        &["line 6: keys.b: \"a\" has the same key"],
    ),
    ("[[keys]]\nname = \"a\"\nkey = \"${UNSET}\"\n", &["line 3: keys.a.key: ", "variable UNSET is not set", "${UNSET:-DEFAULT}"]),
    ("[[keys]]\nname = \"a\"\nkey = \"${UNSET\"\n", &["line 3: keys.a.key: `${` without `}`"]),
    ("[prices.\"gpt-4o\"]\ninput = 1\n", &["line 1: prices.\"gpt-4o\": expected \"provider/model\""]),
    ("[prices.\"openai/x\"]\ninput = true\n", &["line 2: ", "expected a price in USD per million tokens, like 2.50"]),
];

#[test]
fn every_mistake_is_told_with_its_line_and_what_would_be_right() {
    for (text, wished) in MISTAKES {
        let message = read(text, &[]).expect_err(text);
        for words in *wished {
            assert!(message.contains(words), "{words:?} is not in {message:?}, the message for\n{text}");
        }
        let is_plain =
            ["struct", "u64", "u32", "usize", "sequence", "untagged", "hidden-"].iter().all(|word| !message.contains(word));
        assert!(is_plain && !message.contains('\n'), "{message:?} for\n{text}");
    }
}

#[test]
fn a_mistake_in_the_environment_names_the_variable_and_no_line() {
    let file =
        "[server]\nlisten = \"127.0.0.1:1\"\n[rate_limit]\nbackend = \"memory\"\n[log]\nformat = \"json\"\n[providers.openai]\n";
    let cases = [
        ("CHOREOAI_LISTEN", "here"),
        ("CHOREOAI_RATE_LIMIT_BACKEND", "memcached"),
        ("CHOREOAI_RATE_LIMIT_ON_FAILURE", "panic"),
        ("CHOREOAI_LOG_FORMAT", "xml"),
        ("CHOREOAI_REDIS_URL", ":hidden@redis:6379"),
        ("CHOREOAI_REDIS_URL", "redis://"),
        ("OPENAI_BASE_URL", "api.openai.com"),
        ("CHOREOAI_API_KEYS", "hidden-without-name"),
        ("CHOREOAI_API_KEYS", "=hidden-without-name"),
    ];
    for (name, value) in cases {
        let message = read(file, &[(name, value)]).expect_err(name);
        assert!(message.starts_with(&format!("{name}: ")), "{message:?} for {name}={value}");
        assert!(!message.contains("hidden"), "{message:?}");
    }
}

#[test]
fn the_environment_wins_over_the_file() {
    let file = "[server]\nlisten = \"127.0.0.1:1\"\n[log]\nformat = \"json\"\n[rate_limit]\nbackend = \"memory\"\n\
                redis_url = \"redis://file:1\"\non_failure = \"open\"\n[[keys]]\nname = \"a\"\nkey = \"of the file\"\nrequests_per_minute = 7\n";
    let environment = [
        ("CHOREOAI_LISTEN", "localhost:2"),
        ("CHOREOAI_LOG_FORMAT", "text"),
        ("CHOREOAI_RATE_LIMIT_BACKEND", "redis"),
        ("CHOREOAI_REDIS_URL", "redis://environment:1"),
        ("CHOREOAI_RATE_LIMIT_ON_FAILURE", "closed"),
        ("CHOREOAI_API_KEYS", "a=of the environment, b=another"),
    ];
    let config = sound(file, &environment);
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:2");
    assert_eq!(config.log.format, Some(LogFormat::Text));
    assert_eq!((config.rate_limit.backend, config.rate_limit.on_failure), (Backend::Redis, OnFailure::Closed));
    assert_eq!(config.rate_limit.redis_url.reveal(), "redis://environment:1");
    let keys: Vec<_> = config.keys.iter().map(|key| (key.name.as_str(), key.sha256, key.limits.requests_per_minute)).collect();
    let digest = |key: &str| -> [u8; 32] { Sha256::digest(key.as_bytes()).into() };
    assert_eq!(keys, [("a", digest("of the environment"), Some(7)), ("b", digest("another"), None)]);
    let emptied: Vec<(&str, &str)> = environment.iter().map(|(name, _)| (*name, "")).collect();
    let config = sound(file, &emptied);
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:1", "a variable that is empty says nothing");
    assert_eq!((config.keys.len(), config.keys[0].sha256), (1, digest("of the file")));
}

#[test]
fn variables_are_filled_in() {
    let environment = [("SET", "is-set"), ("EMPTY", "")];
    let cases = [
        ("${SET}", "is-set"),
        ("a-${SET}-b", "a-is-set-b"),
        ("${SET}${SET}", "is-setis-set"),
        ("${SET:-other}", "is-set"),
        ("${UNSET:-other}", "other"),
        ("${EMPTY:-other}", "other"),
        ("${UNSET:-}x", "x"),
        ("$SET {SET}", "$SET {SET}"),
    ];
    for (written, meant) in cases {
        let text = format!("[providers.openai]\napi_key = \"{written}\"\nmodels = [\"{written}\"]\n");
        let config = sound(&text, &environment);
        let openai = provider(&config, "openai");
        assert_eq!(key(openai), Some(meant), "{written}");
        assert_eq!(openai.models, [meant], "{written}, within a list");
    }
    assert!(read("# ${UNSET} in a comment is none\n", &environment).is_ok());
}

#[test]
fn a_key_in_the_environment_turns_a_provider_on() {
    for kind in providers::all() {
        let Some(variable) = kind.key_variable() else { continue };
        let addresses = [("AWS_REGION", "eu-west-1"), ("AZURE_OPENAI_ENDPOINT", "https://mine.openai.azure.com/")];
        let config = sound("", &[&[(variable, "from-environment")][..], &addresses].concat());
        let found = provider(&config, kind.kind());
        assert_eq!(found.kind, kind.kind());
        let is_signed = matches!(kind.auth(), providers::Auth::SigV4(_));
        assert!(is_signed || key(found) == Some("from-environment"), "{variable}");
        assert!(sound("", &[(variable, "")]).providers.is_empty(), "{variable} is empty");
    }
    for variable in ["AWS_ACCESS_KEY_ID", "AZURE_OPENAI_API_KEY"] {
        let config = sound("", &[(variable, "k")]);
        assert!(config.providers.is_empty(), "{variable} without an address does not keep the gateway from starting");
    }
}

#[test]
fn a_written_provider_is_not_turned_on_a_second_time() {
    let openai = [("OPENAI_API_KEY", "from-environment")];
    let key = |config: &Config, name: &str| key(provider(config, name)).map(str::to_owned);

    let config = sound("[providers.work]\nkind = \"openai\"\n", &openai);
    assert_eq!((config.providers.len(), key(&config, "work").as_deref()), (1, Some("from-environment")));

    let config = sound("[providers.openai]\napi_key = \"from-file\"\n", &openai);
    assert_eq!((config.providers.len(), key(&config, "openai").as_deref()), (1, Some("from-file")), "a key in the file is meant");

    let other = "[providers.openai]\nkind = \"openai-compatible\"\nbase_url = \"http://10.0.0.1/v1\"\n";
    let config = sound(other, &openai);
    assert_eq!(provider(&config, "openai").base_url, "http://10.0.0.1/v1", "what was written stands");
    assert_eq!(key(&config, "openai"), None, "a key goes to nobody it was not given for");
}

#[test]
fn a_base_url_is_moved_by_the_environment() {
    let config = sound("[providers.openai]\nbase_url = \"http://file/v1\"\n", &[("OPENAI_BASE_URL", "http://moved:9/v1/")]);
    assert_eq!(provider(&config, "openai").base_url, "http://moved:9/v1", "without the last slash");
    let config = sound("[providers.\"my.local-llm\"]\nkind = \"vllm\"\n", &[("MY_LOCAL_LLM_BASE_URL", "http://gpu:1/v1")]);
    assert_eq!(provider(&config, "my.local-llm").base_url, "http://gpu:1/v1");
}

#[test]
fn the_endpoint_of_azures_tools_is_for_azure_accounts_without_an_address() {
    let environment = [("AZURE_OPENAI_ENDPOINT", "https://mine.openai.azure.com/"), ("OPENAI_API_KEY", "k")];
    let file =
        "[providers.east]\nkind = \"azure\"\nbase_url = \"https://east.openai.azure.com\"\n[providers.west]\nkind = \"azure\"\n";
    let config = sound(file, &environment);
    let url = |name: &str| provider(&config, name).base_url.clone();
    assert_eq!([url("east"), url("west")], ["https://east.openai.azure.com", "https://mine.openai.azure.com"]);
    assert_eq!(url("openai"), "https://api.openai.com/v1");
    let other = "[providers.mine]\nkind = \"openai-compatible\"\n";
    assert!(read(other, &environment).is_err(), "no other kind is sent there");
}

#[test]
fn a_gateway_that_would_call_itself_is_refused() {
    let own = [
        ("127.0.0.1:8000", "http://localhost:8000/v1"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("0.0.0.0:8000", "http://127.0.0.1:8000/v1"),
        ("[::1]:8000", "http://[::1]:8000/v1"),
        ("0.0.0.0:80", "http://localhost/v1"),
    ];
    for (listen, url) in own {
        let environment =
            [("CHOREOAI_LISTEN", listen), ("OPENAI_BASE_URL", url), ("OPENAI_API_KEY", "k"), ("CHOREOAI_API_KEYS", "a=b")];
        let message = read("", &environment).expect_err(url);
        assert!(message.contains("own address") && message.contains("OPENAI_BASE_URL"), "{message:?} for {url} at {listen}");
    }
    for (listen, url) in [("127.0.0.1:8000", "http://localhost:8001/v1"), ("0.0.0.0:8000", "http://10.1.2.3:8000/v1")] {
        sound(
            "",
            &[("CHOREOAI_LISTEN", listen), ("OPENAI_BASE_URL", url), ("OPENAI_API_KEY", "k"), ("CHOREOAI_API_KEYS", "a=b")],
        );
    }
}

#[test]
fn everyone_is_let_in_beyond_loopback_only_by_word() {
    for listen in ["0.0.0.0:8000", "[::]:8000", "192.0.2.1:8000"] {
        let message = read("", &[("CHOREOAI_LISTEN", listen)]).expect_err(listen);
        for way_out in [listen, "[[keys]]", "CHOREOAI_API_KEYS", "allow_anonymous"] {
            assert!(message.contains(way_out), "{way_out} is not in {message:?}");
        }
        assert!(read("[server]\nallow_anonymous = false\n", &[("CHOREOAI_LISTEN", listen)]).is_err());
        sound("[server]\nallow_anonymous = true\n", &[("CHOREOAI_LISTEN", listen)]);
        sound("", &[("CHOREOAI_LISTEN", listen), ("CHOREOAI_API_KEYS", "a=secret")]);
    }
    for listen in ["127.0.0.1:8000", "127.9.9.9:8000", "[::1]:8000", "localhost:8000"] {
        sound("", &[("CHOREOAI_LISTEN", listen)]);
    }
}

#[test]
fn prices_stay_the_decimals_that_were_written() {
    let cases = [
        ("2.50", "2.5"),
        ("10", "10"),
        ("0", "0"),
        ("0.075", "0.075"),
        ("0.0000001", "0.0000001"),
        ("123456.123456789", "123456.123456789"),
        ("1e-3", "0.001"),
        ("\"0.1000\"", "0.1000"),
    ];
    for (written, meant) in cases {
        let text = format!("[providers.openai]\n[prices.\"openai/ft:me/mine\"]\ninput = {written}\noutput = 1\n");
        let config = sound(&text, &[]);
        let row = &config.prices[0];
        assert_eq!((row.provider.as_str(), row.model.as_str()), ("openai", "ft:me/mine"), "a model's name may hold a slash");
        assert_eq!(row.input.as_deref(), Some(meant), "{written}");
        assert_eq!((&row.cache_read, &row.reasoning), (&None, &None), "what is left out is not guessed here");
    }
}

#[test]
fn a_key_may_be_given_by_its_digest() {
    let digest = "2BB80D537B1DA3E38BD30361AA855686BDE0EACD7162FEF6A25FE97BF527A25B";
    let config = sound(&format!("[[keys]]\nname = \"a\"\nkey_sha256 = \"{digest}\"\n"), &[]);
    assert_eq!(config.keys[0].sha256, <[u8; 32]>::from(Sha256::digest(b"secret")), "in either case of letters");
}

#[test]
fn a_whole_file_means_what_it_says() {
    let config = sound(
        r#"
        unpriced = "reject"
        [server]
        listen = "127.0.0.1:9"
        max_body_bytes = 1024
        trusted_proxies = ["10.0.0.1", "::1"]
        [rate_limit]
        requests_per_minute = 1
        tokens_per_minute = 2
        max_concurrent = 3
        per_ip_per_second = 4
        deadline = "20ms"
        [providers.east]
        kind = "bedrock"
        region = "eu-west-1"
        models = ["m"]
        on_disconnect = "drain"
        max_concurrent = 5
        queue = { size = 6, wait = "7s" }
        retry = { attempts = 0 }
        [models.everyday]
        targets = [ { target = "east/m", weight = 3 }, { target = "east/n", tier = 2 } ]
        balance = "cost"
        [[keys]]
        name = "a"
        key = "k"
        models = ["everyday", "east/*"]
        limits_per_model = { everyday = { tokens_per_minute = 8 } }
        "#,
        &[],
    );
    assert_eq!((config.unpriced, config.server.max_body_bytes), (Unpriced::Reject, 1024));
    assert_eq!(config.server.trusted_proxies, ["10.0.0.1", "::1"].map(|address| address.parse::<IpAddr>().unwrap()));
    let limits = config.rate_limit.limits;
    assert_eq!((limits.requests_per_minute, limits.tokens_per_minute, limits.max_concurrent), (Some(1), Some(2), Some(3)));
    assert_eq!((config.rate_limit.per_ip_per_second, config.rate_limit.deadline.as_millis()), (Some(4), 20));
    let east = provider(&config, "east");
    assert_eq!((east.kind.as_str(), east.account.region.as_deref()), ("bedrock", Some("eu-west-1")));
    assert!(east.base_url.contains("eu-west-1"), "{}", east.base_url);
    assert_eq!((east.limits.max_concurrent, east.queue.size, east.queue.wait.as_secs()), (Some(5), 6, 7));
    assert_eq!((east.on_disconnect, east.retry.attempts), (OnDisconnect::Drain, 1), "one attempt is the least");
    let model = &config.models[0];
    let targets: Vec<_> = model.targets.iter().map(|to| (to.provider.as_str(), to.model.as_str(), to.weight, to.tier)).collect();
    assert_eq!((model.balance, targets), (Balance::Cost, vec![("east", "m", 3, 1), ("east", "n", 1, 2)]));
    assert_eq!(config.keys[0].models, ["everyday", "east/*"]);
    assert_eq!(config.keys[0].limits_per_model[0].1.tokens_per_minute, Some(8));
}

#[test]
fn no_secret_shows_in_debug() {
    let text = "[rate_limit]\nredis_url = \"redis://:hidden-1@host\"\n[providers.openai]\napi_key = \"hidden-2\"\n[[keys]]\nname = \"a\"\nkey = \"hidden-3\"\n";
    let shown = format!("{:?}", sound(text, &[]));
    assert!(!shown.contains("hidden-"), "{shown}");
}

#[test]
fn credentials_of_clouds_turn_their_provider_on() {
    let region = ("AWS_REGION", "eu-west-1");
    let config = sound("", &[("AWS_BEARER_TOKEN_BEDROCK", "hidden-1"), region]);
    assert_eq!(key(provider(&config, "bedrock")), Some("hidden-1"));

    let keys = [("AWS_ACCESS_KEY_ID", "hidden-1"), ("AWS_SECRET_ACCESS_KEY", "hidden-2"), ("AWS_SESSION_TOKEN", "hidden-3")];
    let config = sound("", &[&keys[..], &[region]].concat());
    let Credentials::Aws(aws) = &provider(&config, "bedrock").credentials else { panic!("{config:?}") };
    assert_eq!((aws.region.as_str(), aws.sts_url.as_str()), ("eu-west-1", "https://sts.eu-west-1.amazonaws.com"));
    assert!(aws.keys.is_some());
    assert!(!format!("{config:?}").contains("hidden-"), "{config:?}");

    let application = [
        ("AZURE_TENANT_ID", "t"),
        ("AZURE_CLIENT_ID", "c"),
        ("AZURE_CLIENT_SECRET", "hidden-1"),
        ("AZURE_OPENAI_ENDPOINT", "https://mine.openai.azure.com"),
    ];
    let config = sound("", &application);
    let azure = provider(&config, "azure");
    assert!(matches!(azure.credentials, Credentials::Entra(_)), "{azure:?}");
    assert!(!format!("{config:?}").contains("hidden-"), "{config:?}");
    assert!(sound("", &application[1..]).providers.is_empty(), "half an application turns nothing on");
}

#[test]
fn credentials_that_cannot_be_meant_are_refused() {
    for (text, named) in [
        ("[providers.openai]\ncredentials = \"x\"\n", "providers.openai.credentials"),
        ("[providers.vertex]\napi_key = \"k\"\ncredentials = \"x\"\n", "either api_key or credentials"),
        ("[providers.bedrock]\nbase_url = \"http://h\"\n", "providers.bedrock.region"),
    ] {
        let message = read(text, &[]).expect_err(text);
        assert!(message.contains(named), "{message:?} does not say {named}");
    }
}
