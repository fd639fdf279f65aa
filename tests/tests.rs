//! The one test binary of the gateway.

// `cfg(test)` tells clippy that what helps a test is a test too.
#[cfg(test)]
mod limits_memory;
#[cfg(test)]
mod limits_outage;
#[cfg(test)]
mod limits_queue;
#[cfg(test)]
mod limits_redis;
#[cfg(test)]
mod limits_server;
#[cfg(test)]
mod limits_storm;
