//! What a configuration must keep to take the place of one that is in use.
//! It must not know how the change is carried out.

use super::{Config, ConfigError, Provider, reading};

impl Config {
    /// Reads the same file again, for a gateway that runs on `self`.
    ///
    /// # Errors
    /// A [`ConfigError`] for a mistake, and for a change that needs a restart: what stands in the file
    /// is carried out as a whole or not at all.
    pub fn read_again(&self) -> Result<Self, ConfigError> {
        let mut config = Self::read(self.path.as_deref(), |text, config| match config.cannot_follow(self) {
            Some(key) => {
                let error = format!("{key}: changing this needs a restart; the rest of the file was not taken in either");
                Err(reading::with_line(text, ConfigError(error)))
            }
            None => Ok(config),
        })?;
        config.path.clone_from(&self.path);
        Ok(config)
    }

    /// The first setting that differs from `running` and is only read at the start.
    fn cannot_follow(&self, running: &Self) -> Option<&'static str> {
        let (ours, theirs) = (&self.rate_limit, &running.rate_limit);
        let settings = [
            ("server.listen", self.server.listen == running.server.listen),
            ("log", self.log == running.log),
            ("rate_limit.backend", ours.backend == theirs.backend),
            ("rate_limit.redis_url", ours.redis_url == theirs.redis_url),
            ("rate_limit.on_failure", ours.on_failure == theirs.on_failure),
            ("rate_limit.deadline", ours.deadline == theirs.deadline),
        ];
        settings.into_iter().find_map(|(key, is_same)| (!is_same).then_some(key))
    }
}

impl Provider {
    /// Whether this is the same account at the same address as `other`: what was learned of one holds for both.
    #[must_use]
    pub fn is_same_place(&self, other: &Self) -> bool {
        (&self.kind, &self.base_url, &self.credentials, &self.account)
            == (&other.kind, &other.base_url, &other.credentials, &other.account)
    }

    /// Whether connections to one serve the other as well.
    #[must_use]
    pub fn is_reached_like(&self, other: &Self) -> bool {
        let how = |provider: &Self| (provider.timeouts.connect, provider.http2_prior_knowledge);
        self.is_same_place(other) && how(self) == how(other)
    }
}
