//! A small TCP load balancer: it asks every backend's `/ready`, gives new connections in turn to those
//! that said yes, and leaves the ones it has alone. It must not know what is called.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// How often `/ready` is asked.
pub const ASK_EVERY: Duration = Duration::from_millis(50);

struct Backend {
    address: SocketAddr,
    is_ready: AtomicBool,
}

/// The balancer. It ends when dropped.
pub struct Balancer {
    pub address: SocketAddr,
    backends: Arc<Vec<Backend>>,
    /// Connections that no backend could be found for.
    pub turned_away: Arc<AtomicUsize>,
    tasks: Mutex<JoinSet<()>>,
}

impl Balancer {
    pub async fn before(addresses: &[SocketAddr]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backends = addresses.iter().map(|&address| Backend { address, is_ready: AtomicBool::new(false) });
        let backends: Arc<Vec<Backend>> = Arc::new(backends.collect());
        let (mut tasks, turned_away) = (JoinSet::new(), Arc::<AtomicUsize>::default());
        for index in 0..backends.len() {
            tasks.spawn(watch(backends.clone(), index));
        }
        let address = listener.local_addr().unwrap();
        tasks.spawn(serve(listener, backends.clone(), turned_away.clone()));
        Self { address, backends, turned_away, tasks: Mutex::new(tasks) }
    }

    /// Whether this backend gets new connections.
    pub fn sends_to(&self, address: SocketAddr) -> bool {
        self.backends.iter().any(|backend| backend.address == address && backend.is_ready.load(Ordering::Relaxed))
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.tasks.lock().unwrap().abort_all();
    }
}

async fn watch(backends: Arc<Vec<Backend>>, index: usize) {
    let backend = &backends[index];
    loop {
        let asked = tokio::time::timeout(Duration::from_secs(2), asks(backend.address)).await;
        backend.is_ready.store(asked == Ok(Some(true)), Ordering::Relaxed);
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn asks(address: SocketAddr) -> Option<bool> {
    let mut socket = TcpStream::connect(address).await.ok()?;
    socket.write_all(b"GET /ready HTTP/1.1\r\nhost: balancer\r\nconnection: close\r\n\r\n").await.ok()?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.ok()?;
    Some(answer.starts_with(b"HTTP/1.1 200"))
}

async fn serve(listener: TcpListener, backends: Arc<Vec<Backend>>, turned_away: Arc<AtomicUsize>) {
    let mut connections = JoinSet::new();
    for turn in 0.. {
        let Ok((client, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let ready = |offset: usize| {
            let backend = &backends[(turn + offset) % backends.len()];
            backend.is_ready.load(Ordering::Relaxed).then_some(backend.address)
        };
        match (0..backends.len()).find_map(ready) {
            Some(address) => drop(connections.spawn(carry(client, address))),
            None => drop(turned_away.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

async fn carry(mut client: TcpStream, to: SocketAddr) {
    if let Ok(mut server) = TcpStream::connect(to).await {
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}
