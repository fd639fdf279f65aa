//! Puts another configuration in the place of the one that is in use while calls run: when told to, and
//! when its file has changed.
//! It must not know what a configuration says, or what a call is.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use tokio::signal::unix::Signal;
use tokio::time::sleep;

use crate::app::App;
use crate::config::{Config, ConfigError, PriceRow, Provider};

/// What stands in for a configuration without any provider.
pub type Demo = (Provider, Vec<PriceRow>);

/// The one that reloads. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Reloader {
    app: App,
    demo: Option<Demo>,
    /// The configuration as it was read last, before anything was added to it. Held while another is read.
    read: Arc<Mutex<Config>>,
}

/// What a file looks like from outside: enough to see that it was written, replaced, or linked elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: (u64, u64),
}

impl Reloader {
    /// A reloader for `app`, which runs on `config` as it was read. When that named no provider, `demo` answers.
    #[must_use]
    pub fn new(app: App, config: Config, demo: Option<Demo>) -> Self {
        Self { app, demo, read: Arc::new(Mutex::new(config)) }
    }

    /// Reloads at every `hangup`, and whenever the file has changed. Never ends.
    pub async fn run(self, mut hangup: Signal) {
        let path = self.read.lock().unwrap_or_else(PoisonError::into_inner).path.clone();
        let mut seen = path.as_deref().and_then(look);
        // A file that is just being written is left alone until it looks the same twice.
        let mut before = seen;
        loop {
            let every = self.app.house().config.server.watch;
            tokio::select! {
                _ = hangup.recv() => {
                    seen = path.as_deref().and_then(look);
                    before = seen;
                    self.reload().await;
                }
                () = sleep(every), if path.is_some() && !every.is_zero() => {
                    let now = path.as_deref().and_then(look);
                    if now != seen && now == before {
                        seen = now;
                        self.reload().await;
                    }
                    before = now;
                }
            }
        }
    }

    /// Reads the file again and carries it out, or refuses it and leaves everything as it is.
    async fn reload(&self) {
        let (began, reloader) = (Instant::now(), self.clone());
        let done = tokio::task::spawn_blocking(move || reloader.try_reload()).await;
        let metrics = Arc::clone(&self.app.house().metrics);
        let done = done.unwrap_or_else(|_| Err(ConfigError("the configuration could not be carried out".to_owned())));
        match done {
            Ok(()) => {
                metrics.config_was_read();
                metrics.config_reloads.with_label_values(&["success"]).inc();
                let reload_seconds = began.elapsed().as_secs_f64();
                tracing::info!(target: "choreoai", reload_seconds, "the configuration was read again and is in use");
            }
            Err(error) => {
                metrics.config_last_reload_successful.set(0);
                metrics.config_reloads.with_label_values(&["failure"]).inc();
                tracing::error!(target: "choreoai", %error, "the configuration was refused; the one before stays in use");
            }
        }
    }

    fn try_reload(&self) -> Result<(), ConfigError> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let config = read.read_again()?;
        let mut whole = config.clone();
        if whole.providers.is_empty() {
            let nobody = || ConfigError("no provider is configured, and nobody would answer any more".to_owned());
            let (provider, prices) = self.demo.clone().ok_or_else(nobody)?;
            whole.providers.push(provider);
            whole.prices.extend(prices);
        }
        let before = self.app.house();
        let house = before.rebuild(whole)?;
        self.app.move_to(house);
        self.app.house().forget(&before);
        *read = config;
        Ok(())
    }
}

/// How the file looks now, through every link; `None` when there is none.
fn look(path: &Path) -> Option<Look> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some(Look { modified: metadata.modified().ok(), bytes: metadata.len(), inode: (metadata.dev(), metadata.ino()) })
}
