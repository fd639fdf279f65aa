//! The load that a build is trained by: every kind of call that is measured in a closed loop, one after the other, on a gateway
//! that counts which ways through its code they take; where there is a Redis, also with limits counted there. Nothing is measured.
//! It must not know how a count is made, or what is done with it.

use std::io;

use crate::contestants::{Contestant, Variant};
use crate::redis::Redis;
use crate::run::{Provider, Room, say};
use crate::scenarios::{Load, SCENARIOS};

/// Puts the load on `program`, and ends it as an operator would, so that it can write down what it counted.
///
/// # Errors
/// When the gateway cannot be started, does not answer as it should, or does not stop.
pub fn run(program: &str) -> io::Result<()> {
    let room = Room::new()?;
    let provider = Provider::start(room.path())?;
    let redis = Redis::start(room.path())?;
    let with_redis = redis.iter().map(|redis| Variant { redis: Some(redis.address), ..Variant::default() });
    for variant in with_redis.chain([Variant::default()]) {
        let name = if variant.redis.is_some() { "gateway + Redis" } else { "gateway" };
        train(Contestant::gateway(name, program, &variant, (provider.address, room.path()))?)?;
    }
    Ok(())
}

fn train(mut gateway: Contestant) -> io::Result<()> {
    gateway.start()?;
    for scenario in SCENARIOS.iter().filter(|scenario| scenario.concerns(&gateway)) {
        let Load::Closed { connections } = scenario.load else { continue };
        say(&format!("training: {}, {}", gateway.name, scenario.name));
        let slice = scenario.closed(&gateway, connections)?;
        if slice.failures > 0 || slice.calls == 0 {
            return Err(io::Error::other(format!("{}: {}", scenario.name, slice.failure.unwrap_or_default())));
        }
    }
    gateway.stop().map(drop)
}
