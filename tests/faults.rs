//! What providers do to calls, row by row, each over real sockets: what the client is told, how many attempts were
//! made and how they were booked; streamed and not, alone and with another target to go to.
//! It must not know how the gateway comes to its decisions.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use crate::support::client::{Answer, Request};
use crate::support::dialect::{openai, request, said, usage};
use crate::support::gateway::Gateway;
use crate::support::metrics::Scrape;
use crate::support::provider::{Exchange, FakeProvider, Reply, Step};

/// Where a row's calls go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// To the scripted provider.
    Scripted,
    /// To a port on which nobody listens.
    Refused,
    /// To a port that takes no more connections and does not say so.
    Full,
    /// To a name that nobody has.
    Nowhere,
    /// To a server that does not speak TLS, over TLS.
    NoTls,
    /// To an HTTP/2 server that sends everybody away.
    Leaving,
}

type Says = fn(&Exchange) -> Reply;

/// One fault: its name, where it happens, what the provider says, and what comes of a streamed call and of a whole
/// one, alone and with a second target.
struct Row(&'static str, Place, Says, [&'static str; 2], [&'static str; 2]);

fn unsaid(_: &Exchange) -> Reply {
    unreachable!("nobody asks")
}

fn says(status: u16) -> Reply {
    Reply::json(status, &json!({"error": {"message": "not now", "type": "server_error", "param": null, "code": null}}))
}

fn limited(header: &str, value: &str) -> Reply {
    let error =
        json!({"error": {"message": "slow down", "type": "rate_limit_error", "param": null, "code": "rate_limit_exceeded"}});
    Reply::json(429, &error).header(header, value)
}

fn is_streamed(exchange: &Exchange) -> bool {
    exchange.json()["stream"] == true
}

/// The beginning of an answer, streamed or not, and what happens then.
fn begins(exchange: &Exchange, then: &[Step]) -> Reply {
    if is_streamed(exchange) {
        let mut steps = openai().beginning(exchange, &said(3), None);
        steps.extend_from_slice(then);
        return Reply::stream(steps);
    }
    let mut reply = Reply::whole(200, "application/json", "{\"id\":\"x\",\"object\":\"chat.completion\",\"choices\":[{\"ind");
    reply.headers[1].1 = "4000".into();
    reply.steps.extend_from_slice(then);
    reply
}

fn answers(exchange: &Exchange) -> Reply {
    openai().answer(exchange, 12, &usage(17, 12))
}

/// Pieces of an answer that never ends, one now and then.
fn trickles(exchange: &Exchange) -> Reply {
    let piece =
        if is_streamed(exchange) { openai().piece(&exchange.model, &said(1)[0], None) } else { Step::Write(" ".into(), 0) };
    let pause = Step::Pause(Duration::from_millis(400));
    let steps: Vec<Step> = (0..60).flat_map(|_| [piece.clone(), pause.clone()]).collect();
    if is_streamed(exchange) { Reply::stream(steps) } else { begins(exchange, &steps) }
}

/// As much as anybody reads, and more, without an end of a line.
fn floods(exchange: &Exchange) -> Reply {
    let piece = Step::Write(Bytes::from(vec![b'a'; 1 << 20]), 0);
    let mut reply = Reply::stream(vec![piece; 70]);
    if !is_streamed(exchange) {
        reply.headers[0].1 = "application/json".into();
    }
    reply
}

/// A little that would become much.
fn bombs(exchange: &Exchange) -> Reply {
    let reply = if is_streamed(exchange) {
        Reply::stream(vec![Step::Write(Bytes::from(vec![0x1f; 4096]), 0)])
    } else {
        Reply::whole(200, "application/json", vec![0x1f; 4096])
    };
    reply.header("content-encoding", "gzip")
}

fn later(seconds: u64) -> String {
    httpdate(SystemTime::now() + Duration::from_secs(seconds))
}

/// A date as HTTP writes it.
fn httpdate(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let text = humantime::format_rfc3339_seconds(time).to_string();
    let (year, month, day) = (&text[..4], text[5..7].parse::<usize>().unwrap(), &text[8..10]);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(seconds / 86400 % 7) as usize];
    let month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"][month - 1];
    format!("{weekday}, {day} {month} {year} {} GMT", &text[11..19])
}

const ROWS: [Row; 28] = [
    Row(
        "refused",
        Place::Refused,
        unsaid,
        ["503 upstream_unavailable: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
        ["503 upstream_unavailable: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
    ),
    Row(
        "no room to connect",
        Place::Full,
        unsaid,
        ["503 upstream_unavailable: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
        ["503 upstream_unavailable: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
    ),
    Row(
        "no such name",
        Place::Nowhere,
        unsaid,
        ["503 upstream_unavailable: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
        ["503 upstream_unavailable: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
    ),
    Row(
        "no TLS",
        Place::NoTls,
        unsaid,
        ["503 upstream_unavailable: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
        ["503 upstream_unavailable: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
    ),
    Row(
        "goaway",
        Place::Leaving,
        unsaid,
        ["502 upstream_error: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
        ["502 upstream_error: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
    ),
    Row(
        "reset before the head",
        Place::Scripted,
        |_| Reply::stream(Vec::new()).after(Step::Reset),
        ["502 upstream_error: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
        ["502 upstream_error: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
    ),
    Row(
        "reset within",
        Place::Scripted,
        |exchange| begins(exchange, &[Step::Pause(Duration::from_millis(100)), Step::Reset]),
        [
            "200 then upstream_stream_error: 1 upstream_truncated/estimated",
            "200 then upstream_stream_error: 1 upstream_truncated/estimated",
        ],
        ["502 upstream_error: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
    ),
    Row(
        "black hole",
        Place::Scripted,
        |_| Reply::stream(Vec::new()).after(Step::Stall),
        ["504 upstream_timeout: 2 timeout/estimated", "200: 1 timeout/estimated + 1 completed/provider"],
        ["504 upstream_timeout: 2 timeout/estimated", "200: 1 timeout/estimated + 1 completed/provider"],
    ),
    Row(
        "slow to begin",
        Place::Scripted,
        |exchange| answers(exchange).after(Step::Pause(Duration::from_millis(500))),
        ["200: 1 completed/provider", "200: 1 completed/provider"],
        ["200: 1 completed/provider", "200: 1 completed/provider"],
    ),
    Row(
        "silent after the head",
        Place::Scripted,
        |_| Reply::stream(vec![Step::Stall]),
        ["504 upstream_timeout: 2 timeout/estimated", "200: 1 timeout/estimated + 1 completed/provider"],
        ["504 upstream_timeout: 2 timeout/estimated", "200: 1 timeout/estimated + 1 completed/provider"],
    ),
    Row(
        "silent within",
        Place::Scripted,
        |exchange| begins(exchange, &[Step::Stall]),
        ["200 then upstream_timeout: 1 timeout/estimated", "200 then upstream_timeout: 1 timeout/estimated"],
        ["504 upstream_timeout: 2 timeout/estimated", "200: 1 timeout/estimated + 1 completed/provider"],
    ),
    Row(
        "trickle",
        Place::Scripted,
        trickles,
        ["200 then upstream_timeout: 1 timeout/estimated", "200 then upstream_timeout: 1 timeout/estimated"],
        ["504 upstream_timeout: 1 timeout/estimated", "200: 1 timeout/estimated + 1 completed/provider"],
    ),
    Row(
        "500",
        Place::Scripted,
        |_| says(500),
        ["500 upstream_error: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
        ["500 upstream_error: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
    ),
    Row(
        "502 as a page",
        Place::Scripted,
        |_| Reply::whole(502, "text/html", "<html><body>Bad gateway</body></html>"),
        ["502 upstream_error: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
        ["502 upstream_error: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
    ),
    Row(
        "503",
        Place::Scripted,
        |_| says(503),
        ["503 upstream_unavailable: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
        ["503 upstream_unavailable: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
    ),
    Row(
        "529",
        Place::Scripted,
        |_| says(529),
        ["503 upstream_unavailable: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
        ["503 upstream_unavailable: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
    ),
    Row(
        "429 for a second",
        Place::Scripted,
        |_| limited("retry-after", "1"),
        ["429 rate_limit_exceeded, retry after 1: 2 upstream_error/none", "200: 1 upstream_error/none + 1 completed/provider"],
        ["429 rate_limit_exceeded, retry after 1: 2 upstream_error/none", "200: 1 upstream_error/none + 1 completed/provider"],
    ),
    Row(
        "429 until a date",
        Place::Scripted,
        |_| limited("retry-after", &later(2)).header("date", &later(0)),
        ["429 rate_limit_exceeded, retry after 2: 2 upstream_error/none", "200: 1 upstream_error/none + 1 completed/provider"],
        ["429 rate_limit_exceeded, retry after 2: 2 upstream_error/none", "200: 1 upstream_error/none + 1 completed/provider"],
    ),
    Row(
        "429 for milliseconds",
        Place::Scripted,
        |_| limited("retry-after-ms", "150"),
        ["429 rate_limit_exceeded, retry after 1: 2 upstream_error/none", "200: 1 upstream_error/none + 1 completed/provider"],
        ["429 rate_limit_exceeded, retry after 1: 2 upstream_error/none", "200: 1 upstream_error/none + 1 completed/provider"],
    ),
    Row(
        "429 for a minute",
        Place::Scripted,
        |_| limited("retry-after", "60"),
        ["429 rate_limit_exceeded, retry after 60: 1 upstream_error/none", "200: 1 upstream_error/none + 1 completed/provider"],
        ["429 rate_limit_exceeded, retry after 60: 1 upstream_error/none", "200: 1 upstream_error/none + 1 completed/provider"],
    ),
    Row(
        "no JSON",
        Place::Scripted,
        |_| Reply::whole(200, "application/json", "{\"id\": oops"),
        ["502 upstream_error: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
        ["502 upstream_error: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
    ),
    Row(
        "nothing at all",
        Place::Scripted,
        |_| Reply::whole(200, "application/json", ""),
        ["502 upstream_error: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
        ["502 upstream_error: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
    ),
    Row(
        "an empty answer",
        Place::Scripted,
        |_| Reply::whole(200, "application/json", "{}"),
        ["502 upstream_error: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
        ["502 upstream_error: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
    ),
    Row(
        "only the end",
        Place::Scripted,
        |_| Reply::stream(vec![Step::Write("data: [DONE]\n\n".into(), 0)]),
        ["502 upstream_stream_error: 2 upstream_truncated/none", "200: 2 upstream_truncated/none + 1 completed/provider"],
        ["502 upstream_error: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
    ),
    Row(
        "a page",
        Place::Scripted,
        |_| Reply::whole(200, "text/html", "<html><title>Sign in</title></html>"),
        ["502 upstream_stream_error: 2 upstream_truncated/none", "200: 2 upstream_truncated/none + 1 completed/provider"],
        ["502 upstream_error: 2 upstream_error/none", "200: 2 upstream_error/none + 1 completed/provider"],
    ),
    Row(
        "without an end",
        Place::Scripted,
        floods,
        ["502 upstream_stream_error: 1 upstream_truncated/none", "200: 1 upstream_truncated/none + 1 completed/provider"],
        ["502 upstream_error: 1 upstream_error/none", "200: 1 upstream_error/none + 1 completed/provider"],
    ),
    Row(
        "gzip",
        Place::Scripted,
        bombs,
        ["502 upstream_error: 1 upstream_error/none", "200: 1 upstream_error/none + 1 completed/provider"],
        ["502 upstream_error: 1 upstream_error/none", "200: 1 upstream_error/none + 1 completed/provider"],
    ),
    Row(
        "the caller's mistake",
        Place::Scripted,
        |_| {
            Reply::json(
                400,
                &json!({"error": {"message": "no", "type": "invalid_request_error", "param": "messages", "code": "bad"}}),
            )
        },
        ["400 bad: 1 upstream_error/none", "400 bad: 1 upstream_error/none"],
        ["400 bad: 1 upstream_error/none", "400 bad: 1 upstream_error/none"],
    ),
];

/// One call of a row.
struct Cell {
    /// The model that clients ask for, and the model at the first target.
    name: String,
    place: Place,
    says: Says,
    streamed: bool,
    has_spare: bool,
    expected: &'static str,
}

fn cells() -> Vec<Cell> {
    let variants = |row: &'static Row| {
        let Row(name, place, says, stream, whole) = row;
        [(true, stream), (false, whole)].into_iter().flat_map(move |(streamed, expected)| {
            [false, true].map(|has_spare| {
                let kind = if streamed { "stream" } else { "whole" };
                let spare = if has_spare { "spare" } else { "alone" };
                let expected = expected[usize::from(has_spare)];
                Cell { name: format!("{name}, {kind}, {spare}"), place: *place, says: *says, streamed, has_spare, expected }
            })
        })
    };
    ROWS.iter().flat_map(variants).collect()
}

impl Cell {
    /// The name of the model at the target, and with `-spare` of the one at the second target.
    fn model(&self) -> String {
        self.name.replace(", ", "-").replace(' ', "_")
    }

    fn table(&self) -> String {
        let (model, place) = (self.model(), format!("{:?}", self.place).to_lowercase());
        let spare = if self.has_spare { format!(", {{ target = \"scripted/{model}-spare\", tier = 2 }}") } else { String::new() };
        format!("[models.\"{model}\"]\ntargets = [ {{ target = \"{place}/{model}\" }}{spare} ]\n")
    }

    async fn call(&self, gateway: &Gateway) -> Answer {
        let mut body = request(&self.model(), 10);
        body["stream"] = json!(self.streamed);
        Request::chat(&body).send(gateway.address).await
    }

    /// What came of it, in the words of the table.
    fn outcome(&self, answer: &Answer, scrape: &Scrape) -> String {
        let attempts = answer.head.header("x-choreoai-attempts").unwrap_or("no");
        let wait = answer.head.header("retry-after").map(|wait| format!(", retry after {wait}")).unwrap_or_default();
        let model = self.model();
        let booked = |model: &str| {
            let settled = scrape
                .series("choreoai_settlements_total", &[])
                .filter(|series| series.labels["model"] == model && series.value > 0.0);
            let mut booked: Vec<String> = settled
                .map(|series| format!("{} {}/{}", series.value, series.labels["outcome"], series.labels["usage_source"]))
                .collect();
            booked.sort();
            booked
        };
        let (first, spare) = (booked(&model), booked(&format!("{model}-spare")));
        let count =
            |booked: &[String]| booked.iter().map(|text| text.split(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>();
        assert_eq!(attempts, (count(&first) + count(&spare)).to_string(), "{}: attempts told beside attempts settled", self.name);
        let spare = if spare.is_empty() { String::new() } else { format!(" + {}", spare.join(", ")) };
        format!("{}{wait}: {}{spare}", told(answer), first.join(", "))
    }
}

/// What the client was told.
fn told(answer: &Answer) -> String {
    let text = answer.text();
    if answer.status != 200 {
        let error = answer.error();
        return format!("{} {}", answer.status, error["code"].as_str().unwrap_or("-"));
    }
    let event = text.lines().find_map(|line| line.strip_prefix("data: {\"error\":"));
    let code = event.and_then(|event| event.split("\"code\":\"").nth(1)).and_then(|rest| rest.split('"').next());
    match event {
        Some(_) => {
            assert!(!text.contains("[DONE]"), "an error and yet complete: {text}");
            format!("200 then {}", code.unwrap_or("-"))
        }
        None => {
            assert!(text.contains("[DONE]") || answer.json()["choices"][0]["message"].is_object(), "no answer: {text}");
            "200".to_owned()
        }
    }
}

/// The port of a listener that is gone.
async fn refusing() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// A listener that takes no more connections: the kernel drops what knocks. It lives as long as what is returned.
async fn full() -> (SocketAddr, TcpListener, Vec<JoinHandle<std::io::Result<TcpStream>>>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let waiting = (0..4).map(|_| tokio::spawn(TcpStream::connect(address))).collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    (address, listener, waiting)
}

/// A server that reads and says `words` to whoever connects, once it has heard something beyond the first `heard` bytes.
fn speaking(listener: TcpListener, words: &'static [&'static [u8]], heard: usize) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut buffer, mut read) = ([0; 4096], 0);
                for word in words {
                    let _ = socket.write_all(word).await;
                    while read <= heard {
                        match socket.read(&mut buffer).await {
                            Ok(more) if more > 0 => read += more,
                            _ => return,
                        }
                    }
                }
            });
        }
    })
}

/// HTTP/2: empty settings; then, when a request is there, GOAWAY that no request was looked at, and the end.
const GOAWAY: &[&[u8]] = &[&[0, 0, 0, 4, 0, 0, 0, 0, 0], &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]];
/// What an HTTP/2 client says before its first request, at least: the preface.
const PREFACE: usize = 24 + 100;

fn configuration(cells: &[Cell], addresses: &[(Place, String)]) -> String {
    let timeouts = "timeouts = { connect = \"1s\", first_byte = \"1500ms\", idle = \"1500ms\", total = \"4s\" }";
    let rest = "retry = { attempts = 2, base = \"20ms\", max = \"2s\" }\nbreaker = { failures = 1000 }";
    let providers = addresses.iter().map(|(place, address)| {
        let name = format!("{place:?}").to_lowercase();
        let http2 = if *place == Place::Leaving { "http2_prior_knowledge = true\n" } else { "" };
        format!(
            "[providers.{name}]\nkind = \"openai\"\nbase_url = \"{address}\"\napi_key = \"sk-fake\"\n{http2}{timeouts}\n{rest}\n"
        )
    });
    let models = cells.iter().map(Cell::table);
    format!("[server]\nallow_anonymous = true\n{}", providers.chain(models).collect::<String>())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_of_a_provider_has_its_answer_and_its_bill() {
    let fake = FakeProvider::start().await;
    let cells = cells();
    for cell in &cells {
        fake.on(&cell.model(), cell.says);
        fake.on(&format!("{}-spare", cell.model()), answers);
    }
    let (full, _listener, _waiting) = full().await;
    let (tls, leaving) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let addresses = [
        (Place::Scripted, fake.url()),
        (Place::Refused, format!("http://{}/v1", refusing().await)),
        (Place::Full, format!("http://{full}/v1")),
        (Place::Nowhere, "http://nowhere.invalid/v1".to_owned()),
        (Place::NoTls, format!("https://{}/v1", tls.local_addr().unwrap())),
        (Place::Leaving, format!("http://{}/v1", leaving.local_addr().unwrap())),
    ];
    let servers = [speaking(tls, &[b"HTTP/1.1 400 Bad Request\r\n\r\n"], 0), speaking(leaving, GOAWAY, PREFACE)];
    let gateway = Gateway::start(configuration(&cells, &addresses)).await;
    let answers = join_all(cells.iter().map(|cell| cell.call(&gateway))).await;
    let at_rest =
        |scrape: &Scrape| scrape.count("choreoai_requests_total", &[("endpoint", "/v1/chat/completions")]) >= cells.len() as u64;
    let scrape = gateway.until("every call to be over", at_rest).await;
    let seen: Vec<String> = cells.iter().zip(&answers).map(|(cell, answer)| cell.outcome(answer, &scrape)).collect();
    let differing = cells.iter().zip(&seen).filter(|(cell, seen)| cell.expected != seen.as_str());
    let differing: Vec<String> =
        differing.map(|(cell, seen)| format!("{}\n  seen     {seen}\n  expected {}", cell.name, cell.expected)).collect();
    servers.iter().for_each(JoinHandle::abort);
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}
