//! The one test binary of the gateway.
