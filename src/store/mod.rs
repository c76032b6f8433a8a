//! store (in work)
