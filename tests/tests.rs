//! The one test binary of the gateway.

mod limits_memory;
mod limits_storm;
mod price_facts;
mod token_bills;
