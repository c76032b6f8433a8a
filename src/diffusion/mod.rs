//! diffusion (in work)
