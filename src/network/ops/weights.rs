//! Weights of a convolution as its inner loop reads them.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::array::{Array, Visitor};
use super::lanes::{LANES, Lanes, add, load, scaled, sub};
use crate::isa::{Isa, Task};

/// Sides of a convolution's weights `[outputs, inputs, size, size]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::network) struct Kernel {
    pub outputs: usize,
    pub inputs: usize,
    pub size: usize,
}

impl Kernel {
    /// Values of one output, or `None` where that overflows.
    pub fn row(self) -> Option<usize> {
        self.size.checked_mul(self.size)?.checked_mul(self.inputs)
    }

    /// Values in all; where they are packed, the outputs are filled up to whole panels. `None` where that overflows.
    pub fn packed(self) -> Option<usize> {
        self.outputs.checked_next_multiple_of(LANES)?.checked_mul(self.row()?)
    }

    fn taps(self) -> usize {
        self.size * self.size
    }

    /// Where the value of output `o`, input `i` and tap `tap` goes.
    fn place(self, o: usize, i: usize, tap: usize) -> usize {
        ((o / LANES * self.taps() + tap) * self.inputs + i) * LANES + o % LANES
    }
}

/// One output's weights in `i8` (`[inputs, size, size]`, as bytes), and what they are multiplied by.
#[derive(Debug, Clone, Copy)]
pub(in crate::network) struct Quantized<'a> {
    pub bytes: &'a [u8],
    pub scale: f32,
}

/// Packed weights: outputs in panels of [`LANES`], in each panel by tap, then input, then output. The last panel is
/// filled up with zeros.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::network) struct Weights {
    pub kernel: Kernel,
    values: Values,
    /// What each output's sum is multiplied by.
    scales: Array<f32>,
    bias: Array<f32>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Values {
    Int8(Array<i8>),
    Float(Array<f32>),
}

/// Places of a tile of Winograd's convolution.
pub(super) const PLACES: usize = 16;

/// Which quarter of a picture of twice the size is computed: rows and columns from 0 or 1 on, every second.
pub(super) type Quarter = [usize; 2];

impl Weights {
    /// Packs `i8` weights, one row for each output.
    pub fn quantized(kernel: Kernel, rows: &[Quantized], bias: &[f32]) -> Self {
        let scales: Vec<f32> = rows.iter().map(|row| row.scale).collect();
        let values = pack(kernel, |o, at| rows[o].bytes[at].cast_signed());
        Self { kernel, values: Values::Int8(values), scales: padded(&scales), bias: padded(bias) }
    }

    /// Packs `f32` weights `[outputs, inputs, size, size]`.
    pub fn float(kernel: Kernel, values: &[f32], bias: &[f32]) -> Self {
        let row = values.len() / kernel.outputs;
        let values = pack(kernel, |o, at| values[o * row + at]);
        let ones = vec![1.0; kernel.outputs];
        Self { kernel, values: Values::Float(values), scales: padded(&ones), bias: padded(bias) }
    }

    /// Shows `visitor` every array.
    pub fn visit(&mut self, visitor: &mut impl Visitor) -> Result<(), String> {
        match &mut self.values {
            Values::Int8(values) => visitor.visit(values)?,
            Values::Float(values) => visitor.visit(values)?,
        }
        visitor.visit(&mut self.scales)?;
        visitor.visit(&mut self.bias)
    }

    /// Number of packed values.
    pub fn len(&self) -> usize {
        match &self.values {
            Values::Int8(values) => values.len(),
            Values::Float(values) => values.len(),
        }
    }

    /// Numbers of scales and biases.
    pub fn affines(&self) -> [usize; 2] {
        [self.scales.len(), self.bias.len()]
    }

    /// Number of panels.
    pub(super) fn panels(&self) -> usize {
        self.kernel.outputs.div_ceil(LANES)
    }

    /// Scales and biases of a panel.
    pub(super) fn affine(&self, panel: usize) -> (Lanes, Lanes) {
        (load(&self.scales[panel * LANES..]), load(&self.bias[panel * LANES..]))
    }

    /// Values of scratch that [`Self::panel`] takes.
    pub(super) fn scratch(&self) -> usize {
        self.kernel.taps() * self.kernel.inputs * LANES
    }

    /// A panel in `f32`, `[taps, inputs, LANES]`, made in `scratch` where it is not stored so.
    ///
    /// For a `quarter` of a picture of twice the size, whose pixels are each input pixel four times, these are the
    /// 2×2 sums of those of the 3×3 taps that meet the same input pixel.
    pub(super) fn panel<'a>(
        &'a self,
        isa: Isa,
        panel: usize,
        quarter: Option<Quarter>,
        scratch: &'a mut [f32],
    ) -> &'a [f32] {
        let tap = self.kernel.inputs * LANES;
        let len = self.kernel.taps() * tap;
        let range = panel * len..(panel + 1) * len;
        match (&self.values, quarter) {
            (Values::Float(values), None) => &values[range],
            (Values::Float(values), Some(quarter)) => {
                let out = &mut scratch[..4 * tap];
                isa.run(Fold { values: &values[range], quarter, out });
                out
            }
            (Values::Int8(values), None) => {
                let out = &mut scratch[..len];
                isa.run(Expand { values: &values[range], out });
                out
            }
            (Values::Int8(values), Some(quarter)) => {
                let out = &mut scratch[..4 * tap];
                isa.run(Fold { values: &values[range], quarter, out });
                out
            }
        }
    }

    /// Those of 3×3 weights of a panel that meet the inputs `slice`, for Winograd's convolution: `out` is
    /// `[PLACES, slice, LANES]`. Exact for `i8`.
    pub(super) fn turn(&self, isa: Isa, panel: usize, slice: Range<usize>, out: &mut [f32]) {
        let len = self.scratch();
        let range = panel * len..(panel + 1) * len;
        match &self.values {
            Values::Int8(values) => isa.run(Turn { values: &values[range], slice, out }),
            Values::Float(values) => isa.run(Turn { values: &values[range], slice, out }),
        }
    }
}

fn pack<T: Copy + Default>(kernel: Kernel, value: impl Fn(usize, usize) -> T) -> Array<T> {
    let mut packed = vec![T::default(); kernel.outputs.next_multiple_of(LANES) * kernel.inputs * kernel.taps()];
    for o in 0..kernel.outputs {
        for i in 0..kernel.inputs {
            for tap in 0..kernel.taps() {
                packed[kernel.place(o, i, tap)] = value(o, i * kernel.taps() + tap);
            }
        }
    }
    packed.into()
}

fn padded(values: &[f32]) -> Array<f32> {
    let mut padded = vec![0.0; values.len().next_multiple_of(LANES)];
    padded[..values.len()].copy_from_slice(values);
    padded.into()
}

struct Expand<'a> {
    values: &'a [i8],
    out: &'a mut [f32],
}

impl Task for Expand<'_> {
    #[inline(always)]
    fn run(self) {
        self.out.iter_mut().zip(self.values).for_each(|(out, value)| *out = f32::from(*value));
    }
}

/// Sums 3×3 taps to 2×2.
struct Fold<'a, T> {
    values: &'a [T],
    quarter: Quarter,
    out: &'a mut [f32],
}

impl<T: Copy + Into<f32>> Task for Fold<'_, T> {
    #[inline(always)]
    fn run(self) {
        let Self { values, quarter: [row, column], out } = self;
        let tap = values.len() / 9;
        out.fill(0.0);
        for (i, values) in values.chunks_exact(tap).enumerate() {
            let meets = 2 * folded(row, i / 3) + folded(column, i % 3);
            let folded = &mut out[meets * tap..][..tap];
            folded.iter_mut().zip(values).for_each(|(sum, value)| *sum += (*value).into());
        }
    }
}

/// Output row 2y + `row` looks at input rows y − 1 and y, or y and y + 1: which of the two tap row `tap` of 0, 1, 2
/// meets.
#[inline(always)]
fn folded(row: usize, tap: usize) -> usize {
    usize::from(tap > row)
}

/// G · weights · Gᵀ of Lavin & Gray.
struct Turn<'a, T> {
    values: &'a [T],
    slice: Range<usize>,
    out: &'a mut [f32],
}

impl<T: Copy + Into<f32>> Task for Turn<'_, T> {
    #[inline(always)]
    fn run(self) {
        let Self { values, slice, out } = self;
        let (values, out) = (values.as_chunks::<HALF>().0, out.as_chunks_mut::<HALF>().0);
        let (inputs, len) = (values.len() / 9, 2 * slice.len());
        for (o, i) in (2 * slice.start..2 * slice.end).enumerate() {
            // Rows first: 4×3, then 4×4.
            let mut half = [[[0.0; HALF]; 3]; 4];
            for column in 0..3 {
                let mut weights = [[0.0; HALF]; 3];
                for (row, weights) in weights.iter_mut().enumerate() {
                    for (weight, value) in weights.iter_mut().zip(values[(row * 3 + column) * inputs + i]) {
                        *weight = value.into();
                    }
                }
                for (half, turned) in half.iter_mut().zip(turned(weights)) {
                    half[column] = turned;
                }
            }
            for (row, half) in half.into_iter().enumerate() {
                for (column, turned) in turned(half).into_iter().enumerate() {
                    out[(row * 4 + column) * len + o] = turned;
                }
            }
        }
    }
}

/// Weights that are turned at once: twelve values of each lie in the registers of AVX2 and of NEON, but not of all
/// [`LANES`].
const HALF: usize = LANES / 2;

/// G times three weights.
#[inline(always)]
fn turned([a, b, c]: [[f32; HALF]; 3]) -> [[f32; HALF]; 4] {
    let outer = add(a, c);
    [a, scaled(add(outer, b), 0.5), scaled(sub(outer, b), 0.5), c]
}
