//! Sessions over a simulated link: what arrives, in which order, how often, and what malformed input does.
//!
//! * `pair`: two sessions joined by a link that splits, joins, delays, cuts and reconnects as it is told;
//! * `delivery`: property tests on such a pair;
//! * `halves`: one outbox and one inbox alone, including what they allocate;
//! * `counting`: credit, barriers and keep-alive alone;
//! * `greeting`: Hello and Welcome, versions, features, refusals;
//! * `malformed`: each kind of bad input, by name;
//! * `corpus`: the fuzz seeds, replayed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may")]

mod allocations;
mod corpus;
mod counting;
mod delivery;
mod greeting;
mod halves;
mod malformed;
mod pair;
