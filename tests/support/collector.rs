//! A receiver of spans as real ones are: OTLP over gRPC and over HTTP on one port, every span
//! remembered; or one that takes everything and never answers.
//! It must not know what a span should say.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use prost::Message;
use tokio::net::TcpListener;

use super::{GLANCE, PATIENCE};

/// Attributes as text.
pub type Attributes = BTreeMap<String, String>;

/// A span as it arrived.
#[derive(Clone, Debug)]
pub struct Span {
    pub name: String,
    pub trace_id: String,
    pub id: String,
    /// Empty for a root.
    pub parent: String,
    pub state: String,
    /// 2 is a server, 3 a client.
    pub kind: i32,
    /// 0 unset, 1 ok, 2 error.
    pub status: i32,
    /// Nanoseconds.
    pub took: u64,
    pub attributes: Attributes,
    pub resource: Attributes,
    pub scope: String,
    /// The whole of it, to look for what must not be there.
    pub debug: String,
}

#[derive(Debug, Default)]
struct Heard {
    spans: Vec<Span>,
    headers: Vec<HeaderMap>,
}

/// The receiver. It ends when dropped.
#[derive(Debug)]
pub struct Collector {
    pub address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[derive(Clone)]
struct Receiver(Arc<Mutex<Heard>>);

impl Collector {
    pub async fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let receiver = Receiver(heard.clone());
        let grpc = TraceServiceServer::new(receiver.clone());
        let routes = Router::new()
            .route("/v1/traces", post(over_http))
            .with_state(receiver)
            .route_service("/opentelemetry.proto.collector.trace.v1.TraceService/Export", grpc);
        let serving = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { address, heard, serving }
    }

    /// One that accepts connections, reads, and never says a word.
    pub async fn frozen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((socket, _)) = listener.accept().await {
                held.push(socket);
            }
        });
        Self { address, heard: Arc::default(), serving }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn spans(&self) -> Vec<Span> {
        self.heard.lock().unwrap().spans.clone()
    }

    /// The headers of every export so far.
    pub fn headers(&self) -> Vec<HeaderMap> {
        self.heard.lock().unwrap().headers.clone()
    }

    /// Waits until the spans are as wished; they are sorted by when they began.
    pub async fn until(&self, what: &str, wished: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let spans = self.spans();
            if wished(&spans) {
                return spans;
            }
            assert!(tokio::time::Instant::now() < deadline, "waited too long for {what} in {spans:#?}");
            tokio::time::sleep(GLANCE).await;
        }
    }
}

async fn over_http(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> Result<Vec<u8>, StatusCode> {
    if headers.get("content-type").is_none_or(|kind| kind != "application/x-protobuf") {
        return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let request = ExportTraceServiceRequest::decode(body).map_err(|_| StatusCode::BAD_REQUEST)?;
    receiver.take(headers, request);
    Ok(ExportTraceServiceResponse::default().encode_to_vec())
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let (metadata, _, request) = request.into_parts();
        self.take(metadata.into_headers(), request);
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Receiver {
    fn take(&self, headers: HeaderMap, request: ExportTraceServiceRequest) {
        let mut heard = self.0.lock().unwrap();
        heard.headers.push(headers);
        for from in request.resource_spans {
            let debug = format!("{from:?}");
            let resource = attributes(&from.resource.unwrap_or_default().attributes);
            for scoped in from.scope_spans {
                let scope = scoped.scope.unwrap_or_default().name;
                heard.spans.extend(scoped.spans.into_iter().map(|span| Span {
                    trace_id: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    state: span.trace_state,
                    kind: span.kind,
                    status: span.status.map_or(0, |status| status.code),
                    took: span.end_time_unix_nano - span.start_time_unix_nano,
                    attributes: attributes(&span.attributes),
                    resource: resource.clone(),
                    scope: scope.clone(),
                    debug: debug.clone(),
                    name: span.name,
                }));
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(pairs: &[KeyValue]) -> Attributes {
    pairs.iter().map(|pair| (pair.key.clone(), pair.value.as_ref().map_or_else(String::new, text))).collect()
}

fn text(value: &AnyValue) -> String {
    match &value.value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::BoolValue(flag)) => flag.to_string(),
        Some(Value::ArrayValue(array)) => array.values.iter().map(text).collect::<Vec<_>>().join(","),
        other => format!("{other:?}"),
    }
}
