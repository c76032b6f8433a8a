//! Handles and descriptors of NVIDIA's libraries. `unsafe` is allowed here for destroying them.
#![allow(unsafe_code)]

/// Something that a library made, destroyed when it is dropped.
#[derive(Debug)]
pub(super) struct Owned<T: Copy, E> {
    /// What the library calls it by.
    pub it: T,
    /// Destroys it; nothing else does.
    pub destroy: unsafe fn(T) -> Result<(), E>,
}

impl<T: Copy, E> Drop for Owned<T, E> {
    fn drop(&mut self) {
        // SAFETY: it was made by the library that this function is of, and is destroyed once. On a lost device that fails, and
        // so be it.
        let _ = unsafe { (self.destroy)(self.it) };
    }
}
