//! Device memory kept for reuse: a training step asks for the same arrays again and again, so that after the first
//! one the driver is not asked for any.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use rissole::{Error, Result};

use super::device::Device;

/// Most elements of an array: kernels count in 32 bits, with room for a grid's stride.
pub const MOST_ELEMENTS: usize = 1 << 31;

/// Memory of one device, by length.
#[derive(Debug)]
pub struct Pool {
    /// The device.
    pub device: Rc<Device>,
    free: RefCell<HashMap<usize, Vec<u64>>>,
    requests: Cell<u64>,
    held: Cell<usize>,
}

impl Pool {
    /// An empty pool.
    pub fn new(device: Rc<Device>) -> Self {
        Self { device, free: RefCell::default(), requests: Cell::new(0), held: Cell::new(0) }
    }

    /// An array of `len` floats with unspecified contents.
    ///
    /// # Errors
    /// [`Error::Usage`] when the device has not that much memory, with what it has.
    pub fn take(self: &Rc<Self>, len: usize) -> Result<Buffer> {
        let buffer = |address| Buffer { pool: self.clone(), address, len };
        if len == 0 {
            return Ok(buffer(0));
        }
        if let Some(address) = self.free.borrow_mut().get_mut(&len).and_then(Vec::pop) {
            return Ok(buffer(address));
        }
        if len >= MOST_ELEMENTS {
            return Err(Error::Usage(format!("an array of {len} values is too large: make the batch smaller")));
        }
        let bytes = len * size_of::<f32>();
        self.requests.set(self.requests.get() + 1);
        let address = match self.device.allocate(bytes)? {
            Some(address) => address,
            None => {
                // What is kept for reuse is of other lengths.
                self.trim();
                self.device.allocate(bytes)?.ok_or_else(|| self.exhausted(bytes))?
            }
        };
        self.held.set(self.held.get() + bytes);
        Ok(buffer(address))
    }

    /// A buffer that stands for an array which could not be had.
    pub fn nothing(self: &Rc<Self>, len: usize) -> Buffer {
        Buffer { pool: self.clone(), address: 0, len }
    }

    /// How often the driver was asked for memory.
    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Bytes held, in use or kept.
    pub fn held(&self) -> usize {
        self.held.get()
    }

    /// Gives everything that is kept back to the driver, once nothing uses it. A fault is left for a later call.
    fn trim(&self) {
        let _ = self.device.synchronize();
        for (len, addresses) in self.free.borrow_mut().drain() {
            self.held.set(self.held.get() - len * size_of::<f32>() * addresses.len());
            addresses.into_iter().for_each(|address| self.device.free(address));
        }
    }

    fn exhausted(&self, bytes: usize) -> Error {
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        let memory = match self.device.memory() {
            Ok((free, total)) => format!("{} MiB of {} MiB are free", mib(free), mib(total)),
            Err(e) => e.to_string(),
        };
        Error::Usage(format!(
            "{}: out of memory: {} MiB more are needed, {memory}, {} MiB are in use here; make the batch smaller",
            self.device.name,
            mib(bytes),
            mib(self.held()),
        ))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.trim();
    }
}

/// An array of floats on the device. Dropped, its memory goes back to the pool.
#[derive(Debug)]
pub struct Buffer {
    pool: Rc<Pool>,
    address: u64,
    len: usize,
}

impl Buffer {
    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes.
    pub fn bytes(&self) -> usize {
        self.len * size_of::<f32>()
    }

    /// Its address; 0 for an array of nothing.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The address of element `index`.
    pub fn at(&self, index: usize) -> u64 {
        assert!(index <= self.len, "element {index} of {}", self.len);
        self.address + (index * size_of::<f32>()) as u64
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.address != 0 {
            self.pool.free.borrow_mut().entry(self.len).or_default().push(self.address);
        }
    }
}
