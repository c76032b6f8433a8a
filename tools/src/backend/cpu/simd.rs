//! The register tile of every matrix product, and the choice of instruction set at run time.
//!
//! `unsafe` is allowed here for the AVX2 intrinsics and the raw row pointers that let a convolution read its
//! input in place, without im2col.
#![allow(unsafe_code)]

/// Rows of a register tile.
pub const ROWS: usize = 6;
/// Columns of a register tile, and of a packed panel.
pub const COLS: usize = 16;

/// A finished tile.
pub type Tile = [[f32; COLS]; ROWS];

/// Runs the same body compiled for AVX2+FMA where the CPU has it, else for the build's target.
///
/// # Safety
/// The AVX2 version is called only after the CPU said it has both features.
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(unsafe_code, clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn fast($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
                    // SAFETY: both features were just detected.
                    return unsafe { fast($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use simd;

/// Rows of one kernel tap: where each of the tile's rows starts, and the panel that multiplies them.
#[derive(Clone, Copy)]
pub struct Tap {
    /// Start of `depth` values for each row.
    pub rows: [*const f32; ROWS],
    /// Start of `depth × COLS` values.
    pub panel: *const f32,
}

/// `tile[r][j] = Σ_taps Σ_k rows[r][k] · panel[k][j]`, k in order.
///
/// # Safety
/// - every `rows` pointer is good for `depth` reads, every `panel` for `depth × COLS`.
pub unsafe fn product(taps: &[Tap], depth: usize, tile: &mut Tile) {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        // SAFETY: both features were just detected; pointers as the caller promises.
        return unsafe { x86::product(taps, depth, tile) };
    }
    *tile = [[0.0; COLS]; ROWS];
    for tap in taps {
        for k in 0..depth {
            // SAFETY: k < depth, within what the caller promises.
            let columns = unsafe { &*tap.panel.add(k * COLS).cast::<[f32; COLS]>() };
            for (row, out) in tap.rows.iter().zip(tile.iter_mut()) {
                // SAFETY: as above.
                let x = unsafe { *row.add(k) };
                for (out, column) in out.iter_mut().zip(columns) {
                    *out += x * column;
                }
            }
        }
    }
}

/// `tile[r][j] += Σ_p x[offsets[p] + r] · panel[p][j]` for the first `rows` rows; [`SKIP`] offsets are left out.
///
/// # Safety
/// - `x` is good for `offset + rows` reads at every offset, `panel` for `offsets.len() × COLS`.
pub unsafe fn outer_product(
    x: *const f32,
    offsets: &[u32],
    step: usize,
    panel: *const f32,
    rows: usize,
    tile: &mut Tile,
) {
    #[cfg(target_arch = "x86_64")]
    if rows == ROWS && std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        // SAFETY: both features were just detected; pointers as the caller promises.
        return unsafe { x86::outer_product(x, offsets, step, panel, tile) };
    }
    for (p, &offset) in offsets.iter().enumerate() {
        if offset == SKIP {
            continue;
        }
        // SAFETY: within what the caller promises.
        let columns = unsafe { &*panel.add(p * COLS).cast::<[f32; COLS]>() };
        for (r, out) in tile.iter_mut().enumerate().take(rows) {
            // SAFETY: as above.
            let x = unsafe { *x.add(offset as usize * step + r) };
            for (out, column) in out.iter_mut().zip(columns) {
                *out += x * column;
            }
        }
    }
}

/// An offset that names no pixel: padding.
pub const SKIP: u32 = u32::MAX;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{COLS, ROWS, SKIP, Tap, Tile};
    use std::arch::x86_64::{
        __m256, _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps,
        _mm256_storeu_ps,
    };

    type Registers = [[__m256; 2]; ROWS];

    /// # Safety
    /// - AVX2 and FMA are there; pointers as [`super::product`].
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn product(taps: &[Tap], depth: usize, tile: &mut Tile) {
        let mut acc: Registers = [[_mm256_setzero_ps(); 2]; ROWS];
        for tap in taps {
            let [r0, r1, r2, r3, r4, r5] = tap.rows;
            let mut panel = tap.panel;
            for k in 0..depth {
                // SAFETY: k < depth, within what the caller promises.
                unsafe {
                    let b = [_mm256_loadu_ps(panel), _mm256_loadu_ps(panel.add(8))];
                    multiply(&mut acc[0], r0.add(k), b);
                    multiply(&mut acc[1], r1.add(k), b);
                    multiply(&mut acc[2], r2.add(k), b);
                    multiply(&mut acc[3], r3.add(k), b);
                    multiply(&mut acc[4], r4.add(k), b);
                    multiply(&mut acc[5], r5.add(k), b);
                    panel = panel.add(COLS);
                }
            }
        }
        for (acc, out) in acc.iter().zip(tile.iter_mut()) {
            // SAFETY: a row of the tile holds two registers.
            unsafe {
                _mm256_storeu_ps(out.as_mut_ptr(), acc[0]);
                _mm256_storeu_ps(out.as_mut_ptr().add(8), acc[1]);
            }
        }
    }

    /// # Safety
    /// - AVX2 and FMA are there; pointers as [`super::outer_product`] with `ROWS` rows.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn outer_product(x: *const f32, offsets: &[u32], step: usize, panel: *const f32, tile: &mut Tile) {
        let mut acc: Registers = [[_mm256_setzero_ps(); 2]; ROWS];
        let mut panel = panel;
        for &offset in offsets {
            // SAFETY: within what the caller promises; SKIP is never read.
            unsafe {
                if offset != SKIP {
                    let x = x.add(offset as usize * step);
                    let b = [_mm256_loadu_ps(panel), _mm256_loadu_ps(panel.add(8))];
                    multiply(&mut acc[0], x, b);
                    multiply(&mut acc[1], x.add(1), b);
                    multiply(&mut acc[2], x.add(2), b);
                    multiply(&mut acc[3], x.add(3), b);
                    multiply(&mut acc[4], x.add(4), b);
                    multiply(&mut acc[5], x.add(5), b);
                }
                panel = panel.add(COLS);
            }
        }
        for (acc, out) in acc.iter().zip(tile.iter_mut()) {
            // SAFETY: a row of the tile holds two registers.
            unsafe {
                let (low, high) = (out.as_mut_ptr(), out.as_mut_ptr().add(8));
                _mm256_storeu_ps(low, _mm256_add_ps(_mm256_loadu_ps(low), acc[0]));
                _mm256_storeu_ps(high, _mm256_add_ps(_mm256_loadu_ps(high), acc[1]));
            }
        }
    }

    /// # Safety
    /// - AVX2 and FMA are there; `x` is good for one read.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn multiply(acc: &mut [__m256; 2], x: *const f32, b: [__m256; 2]) {
        // SAFETY: as the caller promises.
        let a = _mm256_broadcast_ss(unsafe { &*x });
        acc[0] = _mm256_fmadd_ps(a, b[0], acc[0]);
        acc[1] = _mm256_fmadd_ps(a, b[1], acc[1]);
    }
}
