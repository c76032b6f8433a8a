//! Device memory kept for reuse: a training step asks for the same arrays again and again, so that after the first
//! one the driver is not asked for any.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use rissole::{Error, Result};

use super::demand::Demand;
use super::device::Device;

/// Most elements of an array: kernels count in 32 bits, with room for a grid's stride.
pub const MOST_ELEMENTS: usize = 1 << 31;

/// Size of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Elements.
    pub len: usize,
    /// Whether they are bf16, and not floats.
    pub narrow: bool,
}

impl Extent {
    /// Of `len` floats.
    pub fn floats(len: usize) -> Self {
        Self { len, narrow: false }
    }

    /// Bytes.
    pub fn bytes(self) -> usize {
        self.len * self.element()
    }

    /// Bytes of an element.
    fn element(self) -> usize {
        if self.narrow { size_of::<u16>() } else { size_of::<f32>() }
    }
}

/// Arrays that nothing uses, by size.
pub type Free = HashMap<Extent, Vec<u64>>;

/// Memory of one device, by size.
#[derive(Debug)]
pub struct Pool {
    /// The device.
    pub device: Rc<Device>,
    free: RefCell<Free>,
    requests: Cell<u64>,
    held: Cell<usize>,
    demand: RefCell<Demand>,
    /// Bytes that could be had when more were asked for, and the device's.
    lacking: Cell<Option<[usize; 2]>>,
}

impl Pool {
    /// An empty pool.
    pub fn new(device: Rc<Device>) -> Self {
        Self {
            device,
            free: RefCell::default(),
            requests: Cell::new(0),
            held: Cell::new(0),
            demand: RefCell::default(),
            lacking: Cell::new(None),
        }
    }

    /// An array with unspecified contents.
    ///
    /// # Errors
    /// [`Error::Usage`] when the device has not that much memory, with what it has.
    pub fn take(self: &Rc<Self>, extent: Extent) -> Result<Buffer> {
        let kept = self.free.borrow_mut().get_mut(&extent).and_then(Vec::pop);
        match kept {
            Some(address) => Ok(self.lend(address, extent)),
            None => self.take_new(extent),
        }
    }

    /// The same, of none that is kept for reuse: for what stays in use beyond the work that asks for it, which would lack
    /// it the next time.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn take_new(self: &Rc<Self>, extent: Extent) -> Result<Buffer> {
        if extent.len == 0 {
            return Ok(self.nothing(extent));
        }
        if extent.len >= MOST_ELEMENTS {
            return Err(Error::Usage(format!(
                "an array of {} values is too large: make the batch smaller",
                extent.len
            )));
        }
        let bytes = extent.bytes();
        self.requests.set(self.requests.get() + 1);
        let address = match self.device.allocate(bytes)? {
            Some(address) => address,
            None => {
                // What is kept for reuse is of other sizes.
                self.trim();
                self.device.allocate(bytes)?.ok_or_else(|| self.exhausted(bytes))?
            }
        };
        self.held.set(self.held.get() + bytes);
        Ok(self.lend(address, extent))
    }

    /// A buffer that stands for an array which could not be had. It counts as if it were one.
    pub fn nothing(self: &Rc<Self>, extent: Extent) -> Buffer {
        self.lend(0, extent)
    }

    fn lend(self: &Rc<Self>, address: u64, extent: Extent) -> Buffer {
        self.demand.borrow_mut().lend(extent);
        Buffer { pool: self.clone(), address, extent, narrow_copy: RefCell::default() }
    }

    /// What was missing for work on `samples` samples that has ended, where memory was: what it takes, and the most samples
    /// that would do with what there is.
    pub fn shortage(&self, samples: usize) -> Option<String> {
        let [available, total] = self.lacking.take()?;
        let demand = self.demand.borrow();
        let (takes, fits) = (mib(demand.bytes()), demand.samples_within(available, samples));
        let fits = match fits {
            0 => "not even a batch of 1 would fit".to_owned(),
            fits => format!("a batch of {fits} would fit"),
        };
        let (name, available, total) = (&self.device.name, mib(available), mib(total));
        Some(format!(
            "{name}: out of memory: a batch of {samples} takes {takes} MiB, and {available} of {total} MiB can be had; {fits}"
        ))
    }

    /// How often the driver was asked for memory.
    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Bytes held, in use or kept.
    pub fn held(&self) -> usize {
        self.held.get()
    }

    /// Exchanges what is kept for reuse with `free`.
    pub fn exchange(&self, free: &mut Free) {
        std::mem::swap(&mut *self.free.borrow_mut(), free);
    }

    /// Keeps `free` for reuse too.
    pub fn take_in(&self, free: Free) {
        let mut kept = self.free.borrow_mut();
        free.into_iter().for_each(|(extent, addresses)| kept.entry(extent).or_default().extend(addresses));
    }

    /// Gives everything that is kept back to the driver, once nothing uses it. A fault is left for a later call.
    pub fn trim(&self) {
        let _ = self.device.synchronize();
        for (extent, addresses) in self.free.borrow_mut().drain() {
            self.held.set(self.held.get() - extent.bytes() * addresses.len());
            addresses.into_iter().for_each(|address| self.device.free(address));
        }
    }

    fn exhausted(&self, bytes: usize) -> Error {
        let memory = match self.device.memory() {
            Ok((free, total)) => {
                self.lacking.set(Some([free + self.held(), total]));
                format!("{} MiB of {} MiB are free", mib(free), mib(total))
            }
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

fn mib(bytes: usize) -> usize {
    bytes.div_ceil(1 << 20)
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.trim();
    }
}

/// An array on the device. Dropped, its memory goes back to the pool.
#[derive(Debug)]
pub struct Buffer {
    pool: Rc<Pool>,
    address: u64,
    extent: Extent,
    /// The same values in bf16, for products: of weights, whose updates keep it true.
    narrow_copy: RefCell<Option<Rc<Buffer>>>,
}

/// Somewhere in an array.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// Its address.
    pub address: u64,
    /// Whether elements are bf16.
    pub narrow: bool,
    /// Bytes from here to the array's end.
    pub bytes: usize,
}

impl Buffer {
    /// Elements.
    pub fn len(&self) -> usize {
        self.extent.len
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether its elements are bf16.
    pub fn is_narrow(&self) -> bool {
        self.extent.narrow
    }

    /// Bytes.
    pub fn bytes(&self) -> usize {
        self.extent.bytes()
    }

    /// Its address; 0 for an array of nothing.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The place of element `index`.
    pub fn at(&self, index: usize) -> Place {
        assert!(index <= self.len(), "element {index} of {}", self.len());
        let before = index * self.extent.element();
        Place { address: self.address + before as u64, narrow: self.extent.narrow, bytes: self.bytes() - before }
    }

    /// The copy in bf16, where there is one.
    pub fn narrow_copy(&self) -> Option<Rc<Buffer>> {
        self.narrow_copy.borrow().clone()
    }

    /// Keeps a copy in bf16.
    pub fn keep_narrow_copy(&self, copy: Rc<Buffer>) {
        self.narrow_copy.replace(Some(copy));
    }

    /// The address of element `index` of the copy in bf16, for who changes both; 0 where there is no copy.
    pub fn narrow_address(&self, index: usize) -> u64 {
        self.narrow_copy.borrow().as_ref().map_or(0, |copy| copy.at(index).address)
    }

    /// Gives the copy up: the values are about to change.
    pub fn drop_narrow_copy(&self) {
        self.narrow_copy.replace(None);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.demand.borrow_mut().take_back(self.extent);
        if self.address != 0 {
            self.pool.free.borrow_mut().entry(self.extent).or_default().push(self.address);
        }
    }
}
