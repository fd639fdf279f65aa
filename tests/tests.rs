//! The one test binary of the gateway: the real `choreoai` as a child process, a fake provider behind
//! it, a raw client before it. It must not know the gateway's insides: only its door, its metrics,
//! its logs and its configuration. (The stories of `limits`, prices and tokens alone call rooms of the library itself.)

// `cfg(test)` tells clippy that what helps a test is a test too.
#[cfg(test)]
mod accuracy;
#[cfg(test)]
mod configuration;
#[cfg(test)]
mod crossmap;
#[cfg(test)]
mod deployment;
#[cfg(test)]
mod door;
#[cfg(test)]
mod drift;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod health;
#[cfg(test)]
mod house;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod licences;
#[cfg(test)]
mod life;
#[cfg(test)]
mod limits_memory;
#[cfg(test)]
mod limits_outage;
#[cfg(test)]
mod limits_queue;
#[cfg(test)]
mod limits_redis;
#[cfg(test)]
mod limits_replicas;
#[cfg(test)]
mod limits_server;
#[cfg(test)]
mod limits_storm;
#[cfg(test)]
mod limits_workers;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod native;
#[cfg(test)]
mod passing;
#[cfg(test)]
mod presence;
#[cfg(test)]
mod price_facts;
#[cfg(test)]
mod providers_page;
#[cfg(test)]
mod queries;
#[cfg(test)]
mod recordings;
#[cfg(test)]
mod recordings_sdk;
#[cfg(test)]
mod reliability;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod rolling;
#[cfg(test)]
mod sdks;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod signing;
#[cfg(test)]
mod signing_aws;
#[cfg(test)]
mod signing_azure;
#[cfg(test)]
mod soak;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod support;
#[cfg(test)]
mod token_bills;
#[cfg(test)]
mod traces;
#[cfg(test)]
mod transport;
