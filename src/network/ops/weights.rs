//! Weights of a convolution as its inner loop reads them.

use std::ops::Range;

use bytemuck::Zeroable;
use serde::{Deserialize, Serialize};

use super::array::{Array, Visitor};
use super::lanes::{LANES, Lanes, load, scaled};
use super::number::{Digits, Number, Turnable, quads};
use super::rounding::Rounding;
use crate::isa::{Isa, Simd, Task};

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

    /// Products of an output pixel. A kernel is bounded when it is read, so this does not overflow.
    pub(super) fn products(self) -> usize {
        self.outputs * self.inputs * self.taps()
    }

    /// Number of values of a panel.
    pub(super) fn panel_len(self) -> usize {
        self.taps() * self.inputs * LANES
    }

    /// Number of [`Digits`] of a panel whose weights are multiplied by them.
    pub(super) fn digits_len(self) -> usize {
        self.taps() * self.inputs.div_ceil(LANES) * LANES
    }

    /// Where a panel's values lie.
    fn panel(self, panel: usize) -> Range<usize> {
        let len = self.panel_len();
        panel * len..(panel + 1) * len
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
    /// Multiplied as `f32`.
    Int8(Array<i8>),
    Float(Array<f32>),
    /// Multiplied as integers with inputs that are rounded.
    Integers(Array<i8>, Rounding),
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

    /// Has `i8` weights multiplied as integers, with inputs that are rounded so. False where they are not `i8`, or so many
    /// that a sum might overflow.
    pub fn round(&mut self, rounding: Rounding) -> bool {
        let Values::Int8(values) = &mut self.values else { return false };
        self.values = Values::Integers(std::mem::replace(values, vec![].into()), rounding);
        self.are_sound()
    }

    /// Whether inputs can be rounded as is said, and no sum of integers overflows: Winograd's come to four times those of
    /// the products.
    pub fn are_sound(&self) -> bool {
        let Values::Integers(_, rounding) = &self.values else { return true };
        let most = self.kernel.row().and_then(|row| row.checked_mul(4 * 128 * rounding.magnitude()));
        rounding.is_sound() && most.is_some_and(|most| most <= i32::MAX as usize)
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
            Values::Int8(values) | Values::Integers(values, _) => visitor.visit(values)?,
            Values::Float(values) => visitor.visit(values)?,
        }
        visitor.visit(&mut self.scales)?;
        visitor.visit(&mut self.bias)
    }

    /// Number of packed values.
    pub fn len(&self) -> usize {
        match &self.values {
            Values::Int8(values) | Values::Integers(values, _) => values.len(),
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
        let scales = load(&self.scales[panel * LANES..]);
        let scales = match &self.values {
            Values::Integers(_, rounding) => scaled(scales, rounding.scale()),
            _ => scales,
        };
        (scales, load(&self.bias[panel * LANES..]))
    }

    /// How inputs are rounded, and the weights; `None` where they are multiplied as `f32`, by way of [`Floats`].
    pub(super) fn integers(&self) -> Option<(Rounding, Integers<'_>)> {
        match &self.values {
            Values::Integers(values, rounding) => Some((*rounding, Integers { kernel: self.kernel, values })),
            _ => None,
        }
    }
}

/// The panels of weights, as numbers to multiply.
pub(super) trait Panels: Copy + Sync {
    /// What they are multiplied as.
    type Number: Number;
    /// Whether sums of weights are such numbers too.
    const ARE_FOLDED: bool = true;

    /// Numbers that a panel is made of.
    fn panel_len(self) -> usize;

    /// A panel, `[taps, inputs, LANES]`, made in `scratch` where it is not stored so.
    ///
    /// For a `quarter` of a picture of twice the size, whose pixels are each input pixel four times, these are, where they
    /// are [folded](Self::ARE_FOLDED), the 2×2 sums of those of the 3×3 taps that meet the same input pixel.
    fn panel<'a>(
        self,
        isa: Isa,
        panel: usize,
        quarter: Option<Quarter>,
        scratch: &'a mut [Self::Number],
    ) -> &'a [Self::Number]
    where
        Self: 'a;

    /// What the sums of a panel begin with, those of the highest digit.
    fn start(self, _isa: Isa, _panel: usize) -> [<Self::Number as Number>::Sum; LANES] {
        [Zeroable::zeroed(); LANES]
    }
}

/// Panels of weights that Winograd's convolution can turn.
pub(super) trait TurnablePanels: Panels<Number: Turnable> {
    /// Those of 3×3 weights of a panel that meet the inputs `slice`: `out` is `[PLACES, slice, LANES]`. Exact but for `f32`.
    fn turn(self, isa: Isa, panel: usize, slice: Range<usize>, out: &mut [Self::Number]);
}

/// Outputs whose weights are turned at once as `f32`: twelve values of each lie in the registers of AVX2 and of NEON, but
/// not of all [`LANES`].
const HALF: usize = LANES / 2;

/// Weights that are multiplied as `f32`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floats<'a>(pub &'a Weights);

impl Panels for Floats<'_> {
    type Number = f32;

    fn panel_len(self) -> usize {
        self.0.kernel.panel_len()
    }

    fn panel<'a>(self, isa: Isa, panel: usize, quarter: Option<Quarter>, scratch: &'a mut [f32]) -> &'a [f32]
    where
        Self: 'a,
    {
        let range = self.0.kernel.panel(panel);
        match (&self.0.values, quarter) {
            (Values::Float(values), None) => &values[range],
            (Values::Float(values), Some(quarter)) => fold(isa, &values[range], quarter, scratch),
            (Values::Int8(values) | Values::Integers(values, _), _) => expand(isa, &values[range], quarter, scratch),
        }
    }
}

impl TurnablePanels for Floats<'_> {
    fn turn(self, isa: Isa, panel: usize, slice: Range<usize>, out: &mut [f32]) {
        let range = self.0.kernel.panel(panel);
        match &self.0.values {
            Values::Int8(values) | Values::Integers(values, _) => {
                isa.run(Turn::<_, _, HALF> { values: &values[range], slice, out });
            }
            Values::Float(values) => isa.run(Turn::<_, _, HALF> { values: &values[range], slice, out }),
        }
    }
}

/// Weights that are multiplied as integers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Integers<'a> {
    kernel: Kernel,
    values: &'a [i8],
}

impl Panels for Integers<'_> {
    type Number = i16;

    fn panel_len(self) -> usize {
        self.kernel.panel_len()
    }

    fn panel<'a>(self, isa: Isa, panel: usize, quarter: Option<Quarter>, scratch: &'a mut [i16]) -> &'a [i16]
    where
        Self: 'a,
    {
        expand(isa, &self.values[self.kernel.panel(panel)], quarter, scratch)
    }
}

impl TurnablePanels for Integers<'_> {
    fn turn(self, isa: Isa, panel: usize, slice: Range<usize>, out: &mut [i16]) {
        isa.run(Turn::<_, _, LANES> { values: &self.values[self.kernel.panel(panel)], slice, out });
    }
}

/// Weights that are multiplied by digits of integers.
#[derive(Debug, Clone, Copy)]
pub(super) struct ByDigits<'a> {
    pub integers: Integers<'a>,
    /// [`Rounding::middle`] of the integers.
    pub middle: i16,
}

impl Panels for ByDigits<'_> {
    type Number = Digits;
    const ARE_FOLDED: bool = false;

    fn panel_len(self) -> usize {
        self.integers.kernel.digits_len()
    }

    /// `[taps, inputs / LANES rounded up, LANES]`, each in the order of [`quads`].
    fn panel<'a>(self, isa: Isa, panel: usize, _: Option<Quarter>, scratch: &'a mut [Digits]) -> &'a [Digits]
    where
        Self: 'a,
    {
        let Integers { kernel, values } = self.integers;
        let out = &mut scratch[..self.panel_len()];
        isa.run(Regroup { values: &values[kernel.panel(panel)], inputs: kernel.inputs, out });
        out
    }

    /// What was taken from the integers, times the weights.
    fn start(self, isa: Isa, panel: usize) -> [i32; LANES] {
        let Integers { kernel, values } = self.integers;
        let mut sums = [0; LANES];
        if self.middle != 0 {
            isa.run(Multiplied { values: &values[kernel.panel(panel)], by: self.middle, sums: &mut sums });
        }
        sums
    }
}

/// Stored weights of a panel as numbers, for a quarter or as they are.
fn expand<'a, T: Copy + Into<N>, N: Turnable>(
    isa: Isa,
    values: &[T],
    quarter: Option<Quarter>,
    scratch: &'a mut [N],
) -> &'a [N] {
    if let Some(quarter) = quarter {
        return fold(isa, values, quarter, scratch);
    }
    let out = &mut scratch[..values.len()];
    isa.run(Expand { values, out });
    out
}

fn fold<'a, T: Copy + Into<N>, N: Turnable>(isa: Isa, values: &[T], quarter: Quarter, scratch: &'a mut [N]) -> &'a [N] {
    let out = &mut scratch[..values.len() / 9 * 4];
    isa.run(Fold { values, quarter, out });
    out
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

struct Expand<'a, T, N> {
    values: &'a [T],
    out: &'a mut [N],
}

impl<T: Copy + Into<N>, N: Number> Task for Expand<'_, T, N> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        self.out.iter_mut().zip(self.values).for_each(|(out, value)| *out = (*value).into());
    }
}

/// Brings weights `[taps, inputs, LANES]` into the order of [`quads`].
struct Regroup<'a> {
    values: &'a [i8],
    inputs: usize,
    out: &'a mut [Digits],
}

impl Task for Regroup<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let mut out = self.out.as_chunks_mut().0.iter_mut();
        for tap in self.values.as_chunks().0.chunks_exact(self.inputs) {
            for (weights, out) in tap.chunks(LANES).zip(&mut out) {
                *out = quads(weights);
            }
        }
    }
}

/// The sums of weights `[values, LANES]`, multiplied.
struct Multiplied<'a> {
    values: &'a [i8],
    by: i16,
    sums: &'a mut [i32; LANES],
}

impl Task for Multiplied<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let mut sums = [0i32; LANES];
        for weights in self.values.as_chunks::<LANES>().0 {
            for lane in 0..LANES {
                sums[lane] = sums[lane].wrapping_add(weights[lane].into());
            }
        }
        for sum in &mut sums {
            *sum = sum.wrapping_mul(self.by.into());
        }
        *self.sums = sums;
    }
}

/// Sums 3×3 taps to 2×2.
struct Fold<'a, T, N> {
    values: &'a [T],
    quarter: Quarter,
    out: &'a mut [N],
}

impl<T: Copy + Into<N>, N: Turnable> Task for Fold<'_, T, N> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { values, quarter: [row, column], out } = self;
        let tap = values.len() / 9;
        out.fill(N::zeroed());
        for (i, values) in values.chunks_exact(tap).enumerate() {
            let meets = 2 * folded(row, i / 3) + folded(column, i % 3);
            let folded = &mut out[meets * tap..][..tap];
            folded.iter_mut().zip(values).for_each(|(sum, value)| [*sum] = N::add([*sum], [(*value).into()]));
        }
    }
}

/// Output row 2y + `row` looks at input rows y − 1 and y, or y and y + 1: which of the two tap row `tap` of 0, 1, 2
/// meets.
#[inline(always)]
pub(super) fn folded(row: usize, tap: usize) -> usize {
    usize::from(tap > row)
}

/// G · weights · Gᵀ of Lavin & Gray, over [`Turnable::TURNED`], `W` outputs at a time.
struct Turn<'a, T, N, const W: usize> {
    values: &'a [T],
    slice: Range<usize>,
    out: &'a mut [N],
}

impl<T: Copy + Into<N>, N: Turnable, const W: usize> Task for Turn<'_, T, N, W> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { values, slice, out } = self;
        let (values, out) = (values.as_chunks::<W>().0, out.as_chunks_mut::<W>().0);
        let (inputs, len, parts) = (values.len() / 9, LANES / W * slice.len(), LANES / W);
        for (o, i) in (parts * slice.start..parts * slice.end).enumerate() {
            // Rows first: 4×3, then 4×4.
            let mut half = [[[N::zeroed(); W]; 3]; 4];
            for column in 0..3 {
                let mut weights = [[N::zeroed(); W]; 3];
                for (row, weights) in weights.iter_mut().enumerate() {
                    let stored = &values[(row * 3 + column) * inputs + i];
                    for w in 0..W {
                        weights[w] = stored[w].into();
                    }
                }
                for (half, turned) in half.iter_mut().zip(N::turned(weights)) {
                    half[column] = turned;
                }
            }
            for (row, half) in half.into_iter().enumerate() {
                for (column, turned) in N::turned(half).into_iter().enumerate() {
                    out[(row * 4 + column) * len + o] = turned;
                }
            }
        }
    }
}
