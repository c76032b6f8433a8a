//! index (in work)
