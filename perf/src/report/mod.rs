//! What is made of results. Nothing here measures.

pub(crate) mod merge;
