//! Structs that grow from version to version. The first field of each is its size in the caller's version; the function
//! that initializes one is told it, since library and program may know different versions.

use super::fault::{Fault, Outcome, check_pointer};

/// Largest struct that any version will have.
const MAX_BYTES: usize = 4096;

/// A struct of the header that may grow.
///
/// # Safety
/// `repr(C)`; the first field is the `u32` size; every field may have any bytes (numbers and raw pointers).
pub(super) unsafe trait Grown: Copy {
    /// Bytes of its first version, which every caller has at least.
    const FIRST: usize;
    /// What fields that the caller does not know are.
    fn initial() -> Self;
}

/// The caller's struct, completed where it is of an older version.
///
/// # Safety
/// `p` is NULL, misaligned, or points to as many readable bytes as its first field says.
pub(super) unsafe fn read<T: Grown>(p: *const T, name: &str) -> Outcome<T> {
    // SAFETY: as the caller vouches.
    let size = unsafe { size_of_struct(p, name)? };
    let mut value = T::initial();
    // SAFETY: both have so many bytes; any bytes are a `T`.
    unsafe {
        let known = size.min(size_of::<T>());
        std::ptr::copy_nonoverlapping(p.cast::<u8>(), (&raw mut value).cast::<u8>(), known);
        // What a newer program sets and this library does not know must not be ignored.
        let beyond = std::slice::from_raw_parts(p.cast::<u8>().add(known), size - known);
        if beyond.iter().any(|&byte| byte != 0) {
            return Err(Fault::argument(format!("{name} sets what this version of the library does not know")));
        }
    }
    Ok(value)
}

/// Writes as much of `value` as the caller's struct has room for, its size apart.
///
/// # Safety
/// `p` is NULL, misaligned, or points to as many writable bytes as its first field says.
pub(super) unsafe fn write<T: Grown>(p: *mut T, value: T, name: &str) -> Outcome<()> {
    // SAFETY: as the caller vouches; the size stays as it is.
    unsafe {
        let size = size_of_struct(p, name)?.min(size_of::<T>());
        let head = size_of::<u32>();
        let from = (&raw const value).cast::<u8>().add(head);
        std::ptr::copy_nonoverlapping(from, p.cast::<u8>().add(head), size - head);
    }
    Ok(())
}

/// Sets a struct of `size` bytes of the caller, whose version of it may be another, to what is usual. Does nothing where
/// `p` or `size` cannot be.
///
/// # Safety
/// `p` is NULL, misaligned, or points to `size` writable bytes.
pub(super) unsafe fn init<T: Grown>(p: *mut T, size: usize) {
    if p.is_null() || !p.is_aligned() || !(T::FIRST..=MAX_BYTES).contains(&size) {
        return;
    }
    let value = T::initial();
    // SAFETY: `size` bytes may be written, by contract; of `value`, as many as it has are read.
    unsafe {
        p.cast::<u8>().write_bytes(0, size);
        std::ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), p.cast::<u8>(), size.min(size_of::<T>()));
        p.cast::<u32>().write(size as u32);
    }
}

/// # Safety
/// `p` is NULL, misaligned, or points to at least a `u32`.
unsafe fn size_of_struct<T: Grown>(p: *const T, name: &str) -> Outcome<usize> {
    check_pointer(p, name)?;
    // SAFETY: not NULL, aligned for a struct that begins with a `u32`.
    let size = unsafe { p.cast::<u32>().read() } as usize;
    if !(T::FIRST..=MAX_BYTES).contains(&size) {
        let fault = format!("{name}.struct_size is {size}; was it initialized?");
        return Err(Fault::argument(fault));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Two {
        struct_size: u32,
        first: u32,
        second: u64,
    }

    // SAFETY: `repr(C)`, numbers only, the size first.
    unsafe impl Grown for Two {
        const FIRST: usize = 8;
        fn initial() -> Self {
            Self { struct_size: 16, first: 1, second: 2 }
        }
    }

    #[repr(C, align(8))]
    struct Bytes([u32; 6]);

    fn read_from(bytes: &Bytes) -> Outcome<Two> {
        // SAFETY: the sizes written in the tests are at most 24, or refused before anything is read.
        unsafe { read((&raw const bytes.0).cast::<Two>(), "two") }
    }

    #[test]
    fn older_and_newer_structs_are_understood() {
        let old = read_from(&Bytes([8, 7, 9, 9, 9, 9])).unwrap();
        assert_eq!((old.first, old.second), (7, 2));
        let same = read_from(&Bytes([16, 7, 9, 0, 5, 5])).unwrap();
        assert_eq!((same.first, same.second), (7, 9));
        assert!(read_from(&Bytes([24, 7, 9, 0, 0, 0])).is_ok());
        for bad in [[24, 7, 9, 0, 0, 1], [7, 0, 0, 0, 0, 0], [4097, 0, 0, 0, 0, 0], [0; 6]] {
            assert!(read_from(&Bytes(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_what_the_caller_has_room_for_is_written() {
        let value = Two { struct_size: 16, first: 3, second: u64::MAX };
        for (size, expected) in [(8, [8, 3, 5, 5, 5, 5]), (16, [16, 3, u32::MAX, u32::MAX, 5, 5])] {
            let mut bytes = Bytes([size, 5, 5, 5, 5, 5]);
            // SAFETY: 24 bytes, of which `size` may be written.
            unsafe { write((&raw mut bytes.0).cast::<Two>(), value, "two").unwrap() };
            assert_eq!(bytes.0, expected);
        }
        // SAFETY: NULL is refused.
        assert!(unsafe { write(std::ptr::null_mut::<Two>(), value, "two") }.is_err());
    }

    #[test]
    fn only_as_much_is_initialized_as_the_caller_says() {
        for (size, expected) in [
            (7, [5; 6]),
            (8, [8, 1, 5, 5, 5, 5]),
            (16, [16, 1, 2, 0, 5, 5]),
            (24, [24, 1, 2, 0, 0, 0]),
            (MAX_BYTES + 1, [5; 6]),
        ] {
            let mut bytes = Bytes([5; 6]);
            // SAFETY: 24 bytes, of which `size` may be written, or nothing is.
            unsafe { init((&raw mut bytes.0).cast::<Two>(), size) };
            assert_eq!(bytes.0, expected);
        }
        // SAFETY: NULL is ignored.
        unsafe { init(std::ptr::null_mut::<Two>(), 16) };
    }
}
