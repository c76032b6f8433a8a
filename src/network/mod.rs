//! network (in work)
