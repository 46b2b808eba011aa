//! How a client finds and greets a Fusewire server
