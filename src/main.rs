//! The command line: builds the house, serves, leaves politely. It must not know what a call is.

fn main() {}
