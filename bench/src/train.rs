//! The load that a build is trained by: every kind of call that is measured in a closed loop, one after the other, on a gateway
//! that counts which ways through its code they take. Nothing is measured.
//! It must not know how a count is made, or what is done with it.

use std::io;

use crate::contestants::{Contestant, Variant};
use crate::run::{Provider, Room, say};
use crate::scenarios::{Load, SCENARIOS};

/// Puts the load on `program`, and ends it as an operator would, so that it can write down what it counted.
///
/// # Errors
/// When the gateway cannot be started, does not answer as it should, or does not stop.
pub fn run(program: &str) -> io::Result<()> {
    let room = Room::new()?;
    let provider = Provider::start(room.path())?;
    let mut gateway = Contestant::gateway("gateway", program, &Variant::default(), (provider.address, room.path()))?;
    gateway.start()?;
    for scenario in &SCENARIOS {
        let Load::Closed { connections } = scenario.load else { continue };
        say(&format!("training: {}", scenario.name));
        let slice = scenario.closed(&gateway, connections)?;
        if slice.failures > 0 || slice.calls == 0 {
            return Err(io::Error::other(format!("{}: {}", scenario.name, slice.failure.unwrap_or_default())));
        }
    }
    gateway.stop()?;
    Ok(())
}
