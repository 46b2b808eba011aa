//! Links that carry Fusewire's batches and bulk data
