//! Where a request came from: its id and its client's address. Rides with the request from the socket on.
//! It must not know what is asked.

use std::net::{IpAddr, Ipv4Addr};

/// Where a request came from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Its id: the client's own when it is sane, else a new one.
    pub request_id: String,
    /// The client's address.
    pub address: IpAddr,
}

impl Default for Origin {
    fn default() -> Self {
        Self { request_id: new_request_id(), address: IpAddr::V4(Ipv4Addr::UNSPECIFIED) }
    }
}

/// A new id, unlike any other.
#[must_use]
pub fn new_request_id() -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut rest = fastrand::u128(..);
    let mut id = String::with_capacity(36);
    id.push_str("req_");
    for _ in 0..u128::BITS / 4 {
        id.push(char::from(HEX[(rest % 16) as usize]));
        rest /= 16;
    }
    id
}
