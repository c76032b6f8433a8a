//! The operations of the tape: each a launch or a few.

use rissole::{Error, Result};

use super::super::codes::CodeSet;
use super::super::pictures::PictureSet;
use super::super::windows::{Batch, LatentSet, Layout, WindowSettings};
use super::super::{
    AdamW, Attention, Backend, Book, BookStep, Conv, Mask, Norm, PictureError, Plane, Pool, Trained, Window,
};
use super::memory::Buffer;
use super::nccl::{self, Nccl};
use super::pictures::{Codes, Pictures};
use super::recording::Recording;
use super::windows::Latents;
use super::{Cuda, Operand, arguments};
use crate::group::Group;

impl Backend for Cuda {
    type Buffer = Buffer;
    type Latents = Latents;
    type Pictures = Pictures;
    type Codes = Codes;
    type Recording = Recording;

    fn check(&self) -> Result<()> {
        match self.fault.borrow_mut().take() {
            Some(fault) => Err(fault),
            None if self.broken.get() => Err(Error::Internal(format!("{} failed before", self.name()))),
            None => Ok(()),
        }
    }

    fn check_batch(&self, samples: usize) -> Result<()> {
        self.check().map_err(|fault| self.pool.shortage(samples).map_or(fault, Error::Usage))
    }

    fn alloc(&self, len: usize) -> Buffer {
        self.activations(len)
    }

    fn alloc_floats(&self, len: usize) -> Buffer {
        self.scratch(len)
    }

    fn zeros(&self, len: usize) -> Buffer {
        let mut buffer = self.scratch(len);
        self.clear(&mut buffer);
        buffer
    }

    fn upload(&self, values: &[f32]) -> Buffer {
        let mut buffer = self.scratch(values.len());
        self.write(values, &mut buffer);
        buffer
    }

    fn upload_activations(&self, values: &[f32]) -> Buffer {
        let floats = self.upload(values);
        if !self.bf16 {
            return floats;
        }
        let buffer = self.activations(values.len());
        self.each("to_activations", values.len(), &arguments![floats, buffer]);
        buffer
    }

    fn write(&self, values: &[f32], to: &mut Buffer) {
        assert!(values.len() == to.len() && !to.is_narrow(), "floats in place of as many");
        to.drop_narrow_copy();
        if !values.is_empty() {
            self.run(|device| device.upload(values, to.address()));
        }
    }

    fn download(&self, buffer: &Buffer) -> Vec<f32> {
        let wide = self.widened(buffer);
        let buffer = wide.as_ref().unwrap_or(buffer);
        let mut values = vec![f32::NAN; buffer.len()];
        if !values.is_empty() {
            self.run(|device| device.download(buffer.address(), &mut values));
        }
        values
    }

    fn release(&self, buffer: Buffer) {
        drop(buffer);
    }

    fn copy(&self, from: &Buffer, to: &mut Buffer) {
        assert_eq!((from.len(), from.is_narrow()), (to.len(), to.is_narrow()), "a copy is of one size");
        to.drop_narrow_copy();
        if !from.is_empty() {
            self.run(|device| device.copy(from.address(), to.address(), to.bytes()));
        }
    }

    fn clear(&self, to: &mut Buffer) {
        to.drop_narrow_copy();
        if !to.is_empty() {
            self.run(|device| device.clear(to.address(), to.bytes()));
        }
    }

    fn accumulate(&self, from: &Buffer, to: &mut Buffer) {
        assert_eq!(from.len(), to.len(), "summands have one length");
        let kernel = if to.is_narrow() { "accumulate" } else { "accumulate_floats" };
        self.each(kernel, to.len(), &arguments![from, to]);
    }

    fn convert(&self, from: &Buffer, to: &mut Buffer) {
        assert_eq!(from.len(), to.len());
        self.each("to_activations", to.len(), &arguments![from, to]);
    }

    fn fill(&self, value: f32, to: &mut Buffer) {
        self.each("fill", to.len(), &arguments![value, to]);
    }

    fn affine(&self, factor: f32, summand: f32, x: &Buffer, out: &mut Buffer) {
        assert_eq!(x.len(), out.len());
        self.each("affine", out.len(), &arguments![factor, summand, x, out]);
    }

    fn add_scaled(&self, scale: &Buffer, x: &Buffer, to: &mut Buffer) {
        assert_eq!([x.len(), scale.len()], [to.len(), 1]);
        self.each("add_scaled", to.len(), &arguments![scale, x, to]);
    }

    fn note(&self, values: &Buffer, [column, columns]: [usize; 2], row: &Buffer, log: &mut Buffer) {
        assert!(column + values.len() <= columns && log.len().is_multiple_of(columns) && row.len() == 1);
        self.each("note", values.len(), &arguments![column, columns, values, row, log]);
    }

    fn square_sum(&self, x: &Buffer, out: &mut Buffer) {
        assert_eq!(out.len(), 1);
        self.sum_of_squares(x, out);
    }

    fn conv(&self, g: &Conv, x: &Buffer, weight: &Buffer, bias: &Buffer, out: &mut Buffer) {
        check_conv(g, x, out, weight);
        assert_eq!(bias.len(), g.outputs);
        self.conv_forward(g, x, weight, bias, out);
    }

    fn conv_grad_input(&self, g: &Conv, weight: &Buffer, grad: &Buffer, out: &mut Buffer) {
        check_conv(g, out, grad, weight);
        self.conv_backward_input(g, weight, grad, out);
    }

    fn conv_grad_weight(&self, g: &Conv, x: &Buffer, grad: &Buffer, weight: &mut Buffer, bias: &mut Buffer) {
        check_conv(g, x, grad, weight);
        assert_eq!(bias.len(), g.outputs);
        self.conv_backward_weight(g, x, grad, weight, bias);
    }

    fn group_norm(&self, g: &Norm, x: &Buffer, scale: &Buffer, shift: &Buffer, out: &mut Buffer, stats: &mut Buffer) {
        assert_eq!([x.len(), out.len()], [g.batch * g.pixels * g.channels; 2]);
        assert_eq!([scale.len(), shift.len(), stats.len()], [g.channels, g.channels, 2 * g.batch * g.groups]);
        let arguments = arguments![g.pixels, g.channels, g.groups, g.silu, x, scale, shift, out, stats];
        self.teams("group_norm", g.batch * g.groups, &arguments);
    }

    fn group_norm_grad(
        &self,
        g: &Norm,
        x: &Buffer,
        scale: &Buffer,
        shift: &Buffer,
        stats: &Buffer,
        grad: &Buffer,
        out: &mut Buffer,
        grad_scale: &mut Buffer,
        grad_shift: &mut Buffer,
    ) {
        assert_eq!([x.len(), grad.len(), out.len()], [g.batch * g.pixels * g.channels; 3]);
        assert_eq!([scale.len(), shift.len(), grad_scale.len(), grad_shift.len()], [g.channels; 4]);
        assert_eq!(stats.len(), 2 * g.batch * g.groups);
        let sums = self.scratch(2 * g.batch * g.channels); // [N, 2, C]: of shift, then of scale
        let arguments = arguments![g.pixels, g.channels, g.groups, g.silu, x, scale, shift, stats, grad, out, sums];
        self.teams("group_norm_grad", g.batch * g.groups, &arguments);
        let (partial, slices) = self.column_sums(g.batch, 2 * g.channels, &sums);
        let stride = 2 * g.channels;
        self.add_partials(g.channels, slices, stride, 0, &partial, grad_shift.at(0));
        self.add_partials(g.channels, slices, stride, g.channels, &partial, grad_scale.at(0));
    }

    fn layer_norm(
        &self,
        batch: usize,
        len: usize,
        x: &Buffer,
        scale: &Buffer,
        shift: &Buffer,
        out: &mut Buffer,
        stats: &mut Buffer,
    ) {
        assert_eq!([x.len(), out.len(), stats.len()], [batch * len, batch * len, 2 * batch]);
        assert_eq!([scale.len(), shift.len()], [len; 2]);
        self.teams("layer_norm", batch, &arguments![len, x, scale, shift, out, stats]);
    }

    fn layer_norm_grad(
        &self,
        batch: usize,
        len: usize,
        x: &Buffer,
        scale: &Buffer,
        stats: &Buffer,
        grad: &Buffer,
        out: &mut Buffer,
        grad_scale: &mut Buffer,
        grad_shift: &mut Buffer,
    ) {
        assert_eq!([x.len(), grad.len(), out.len()], [batch * len; 3]);
        assert_eq!([scale.len(), grad_scale.len(), grad_shift.len(), stats.len()], [len, len, len, 2 * batch]);
        self.teams("layer_norm_grad", batch, &arguments![len, x, scale, stats, grad, out]);
        self.each("layer_norm_grad_affine", len, &arguments![batch, x, stats, grad, grad_scale, grad_shift]);
    }

    fn silu(&self, x: &Buffer, out: &mut Buffer) {
        assert_eq!(x.len(), out.len());
        self.each("silu", out.len(), &arguments![x, out]);
    }

    fn silu_grad(&self, x: &Buffer, grad: &Buffer, out: &mut Buffer) {
        assert_eq!([x.len(), grad.len()], [out.len(); 2]);
        self.each("silu_grad", out.len(), &arguments![x, grad, out]);
    }

    fn leaky_relu(&self, slope: f32, x: &Buffer, out: &mut Buffer) {
        assert_eq!(x.len(), out.len());
        self.each("leaky_relu", out.len(), &arguments![slope, x, out]);
    }

    fn leaky_relu_grad(&self, slope: f32, x: &Buffer, grad: &Buffer, out: &mut Buffer) {
        assert_eq!([x.len(), grad.len()], [out.len(); 2]);
        self.each("leaky_relu_grad", out.len(), &arguments![slope, x, grad, out]);
    }

    fn dropout(&self, mask: &Mask, seed: &Buffer, x: &Buffer, out: &mut Buffer) {
        assert_eq!([x.len(), seed.len()], [out.len(), 2]);
        let [number, first, threshold] = [mask.number, mask.first, mask.threshold()].map(|n| n as usize);
        self.each("dropout", out.len(), &arguments![number, first, threshold, mask.scale(), seed, x, out]);
    }

    fn add(&self, a: &Buffer, b: &Buffer, out: &mut Buffer) {
        assert_eq!([a.len(), b.len()], [out.len(); 2]);
        self.each("add", out.len(), &arguments![a, b, out]);
    }

    fn add_vector(&self, batch: usize, channels: usize, x: &Buffer, v: &Buffer, out: &mut Buffer) {
        assert_eq!([x.len(), v.len()], [out.len(), batch * channels]);
        self.each("add_vector", out.len(), &arguments![out.len() / batch, channels, x, v, out]);
    }

    fn sum_pixels(&self, batch: usize, channels: usize, grad: &Buffer, out: &mut Buffer) {
        assert_eq!(out.len(), batch * channels);
        let pixels = grad.len() / out.len();
        assert_eq!(grad.len(), pixels * out.len());
        self.each("sum_pixels", out.len(), &arguments![pixels, channels, grad, out]);
    }

    fn concat(&self, rows: usize, a: &Buffer, b: &Buffer, out: &mut Buffer) {
        let [ca, cb] = row_lengths(rows, a, b, out);
        self.each("concat", out.len(), &arguments![ca, cb, a, b, out]);
    }

    fn split(&self, rows: usize, x: &Buffer, a: &mut Buffer, b: &mut Buffer) {
        let [ca, cb] = row_lengths(rows, a, b, x);
        self.each("split", x.len(), &arguments![ca, cb, x, a, b]);
    }

    fn upsample(&self, g: &Plane, x: &Buffer, out: &mut Buffer) {
        assert_eq!([x.len(), out.len()], [elements(g), 4 * elements(g)]);
        self.each("upsample", out.len(), &arguments![g.width, g.channels, x, out]);
    }

    fn upsample_grad(&self, g: &Plane, grad: &Buffer, out: &mut Buffer) {
        assert_eq!([grad.len(), out.len()], [4 * elements(g), elements(g)]);
        self.each("upsample_grad", out.len(), &arguments![g.width, g.channels, grad, out]);
    }

    fn depth_to_space(&self, g: &Plane, x: &Buffer, out: &mut Buffer) {
        assert_eq!([x.len(), out.len()], [elements(g); 2]);
        self.each("depth_to_space", out.len(), &arguments![g.width, g.channels, x, out]);
    }

    fn space_to_depth(&self, g: &Plane, grad: &Buffer, out: &mut Buffer) {
        assert_eq!([grad.len(), out.len()], [elements(g); 2]);
        self.each("space_to_depth", out.len(), &arguments![g.width, g.channels, grad, out]);
    }

    fn crop(&self, g: &Plane, margin: usize, x: &Buffer, out: &mut Buffer) {
        assert_eq!([x.len(), out.len()], [elements(g), elements(&cropped(g, margin))]);
        self.each("crop", out.len(), &arguments![g.height, g.width, g.channels, margin, x, out]);
    }

    fn crop_grad(&self, g: &Plane, margin: usize, grad: &Buffer, out: &mut Buffer) {
        assert_eq!([grad.len(), out.len()], [elements(&cropped(g, margin)), elements(g)]);
        self.each("crop_grad", out.len(), &arguments![g.height, g.width, g.channels, margin, grad, out]);
    }

    fn pool(&self, g: &Pool, x: &Buffer, out: &mut Buffer) {
        check_pool(g, x, out);
        let arguments = [&pool_sizes(g)[..], &arguments![x, out]].concat();
        self.each("pool", out.len(), &arguments);
    }

    fn pool_grad(&self, g: &Pool, x: &Buffer, grad: &Buffer, out: &mut Buffer) {
        check_pool(g, x, grad);
        assert_eq!(x.len(), out.len());
        let arguments = [&pool_sizes(g)[..], &arguments![x, grad, out]].concat();
        self.each("pool_grad", out.len(), &arguments);
    }

    fn attention(&self, g: &Attention, qkv: &Buffer, out: &mut Buffer, weights: &mut Buffer) {
        check_attention(g, qkv, out, weights);
        self.attend(g, qkv, out, weights);
    }

    fn attention_grad(&self, g: &Attention, qkv: &Buffer, weights: &Buffer, grad: &Buffer, out: &mut Buffer) {
        check_attention(g, out, grad, weights);
        assert_eq!(qkv.len(), out.len());
        self.attend_backward(g, qkv, weights, grad, out);
    }

    fn sinusoid(&self, dim: usize, t: &Buffer, out: &mut Buffer) {
        assert_eq!(out.len(), t.len() * dim);
        let half = dim / 2;
        self.each("sinusoid", t.len() * half, &arguments![half, t, out]);
    }

    fn nearest(&self, channels: usize, rows: &Buffer, entries: &[f32]) -> Vec<u32> {
        self.nearest_entries(channels, rows, entries)
    }

    fn assign(&self, channels: usize, rows: &Buffer, entries: &Buffer, codes: &mut Buffer, chosen: &mut Buffer) {
        self.assign_entries(channels, rows, entries, codes, chosen);
    }

    fn sum_book(&self, share: [usize; 2], rows: &Buffer, codes: &Buffer, key: &Buffer, step: &mut BookStep<Buffer>) {
        self.sum_rows(share, rows, codes, key, step);
    }

    fn move_book(&self, decay: f32, times: usize, step: &BookStep<Buffer>, book: &mut Book<Buffer>) {
        self.move_entries(decay, times, step, book);
    }

    fn picture_error(&self, g: &PictureError, fake: &Buffer, real: &Buffer, grad: &mut Buffer, errors: &mut Buffer) {
        assert_eq!([fake.len(), real.len(), grad.len(), errors.len()], [elements(&g.plane), fake.len(), fake.len(), 2]);
        self.errors_of_pictures(g, fake, real, grad, errors);
    }

    fn hinge(&self, sign: f32, scores: &Buffer, grad: &mut Buffer, loss: &mut Buffer) {
        assert_eq!([grad.len(), loss.len()], [scores.len(), 1]);
        self.hinge_loss(sign, scores, grad, loss);
    }

    fn adaptive_weight(&self, weight: f32, a: &Buffer, b: &Buffer, out: &mut Buffer) {
        assert_eq!([a.len(), b.len(), out.len()], [1; 3]);
        self.each("adaptive_weight", 1, &arguments![weight, a, b, out]);
    }

    fn over_mean_square(&self, weight: f32, n: usize, square_sum: &Buffer, out: &mut Buffer) {
        assert_eq!(square_sum.len(), 1);
        self.each("over_mean_square", out.len(), &arguments![weight, n as f32, square_sum, out]);
    }

    fn squared_error(
        &self,
        predicted: &Buffer,
        target: &Buffer,
        weights: &Buffer,
        grad: &mut Buffer,
        loss: &mut Buffer,
    ) {
        let (n, samples) = (predicted.len(), weights.len());
        assert_eq!([target.len(), grad.len(), loss.len()], [n, n, 1]);
        assert!(n > 0 && n.is_multiple_of(samples), "{n} values of {samples} samples");
        self.mean_squared_error(predicted, target, weights, grad, loss);
    }

    fn add_difference(&self, weights: &Buffer, a: &Buffer, b: &Buffer, to: &mut Buffer) {
        let (n, samples) = (to.len(), weights.len());
        assert_eq!([a.len(), b.len()], [n; 2]);
        assert!(n > 0 && n.is_multiple_of(samples), "{n} values of {samples} samples");
        self.each("add_difference", n, &arguments![n / samples, weights, a, b, to]);
    }

    fn update(&self, settings: &AdamW, pace: &Buffer, tensors: &mut [Trained<'_, Buffer>]) {
        self.update_all(settings, pace, tensors);
    }

    fn pictures(&self, set: PictureSet) -> Pictures {
        self.upload_pictures(&set)
    }

    fn cut_out(&self, pictures: &Pictures, size: [usize; 2], cuts: &Buffer, out: &mut Buffer) {
        self.cut_pictures(pictures, size, cuts, out);
    }

    fn codes(&self, set: CodeSet) -> Codes {
        self.upload_codes(&set)
    }

    fn cut_latents(&self, codes: &Codes, size: [usize; 2], cuts: &Buffer, out: &mut Buffer) {
        self.cut_codes(codes, size, cuts, out);
    }

    fn latents(&self, set: LatentSet, settings: WindowSettings) -> Latents {
        self.upload_latents(&set, settings)
    }

    fn layout<'l>(&self, latents: &'l Latents) -> &'l Layout {
        &latents.layout
    }

    fn draw(&self, latents: &Latents, subjects: &Buffer, batch: &mut Batch<Buffer>) {
        self.draw_windows(latents, subjects, batch);
    }

    fn can_join(&self) -> bool {
        nccl::is_there()
    }

    fn join(&self, group: &Group) -> Result<()> {
        *self.nccl.borrow_mut() = Some(self.device.join(group)?);
        Ok(())
    }

    fn part(&self) -> Result<()> {
        self.nccl.take().map_or(Ok(()), Nccl::leave)
    }

    fn average(&self, arrays: &mut [&mut Buffer]) {
        let nccl = self.nccl.borrow();
        let nccl = nccl.as_ref().expect("only devices that were joined average");
        self.run(|_| nccl.average(arrays));
    }

    fn repeat(&self, recording: &mut Recording, work: impl FnMut()) {
        self.record_or_replay(recording, work);
    }
}

impl Cuda {
    /// Launches a kernel whose blocks each do one of `n` parts together.
    fn teams(&self, kernel: &str, n: usize, arguments: &[Operand]) {
        if n > 0 {
            self.launch(kernel, [n, 1, 1], arguments);
        }
    }
}

fn check_conv(g: &Conv, input: &Buffer, output: &Buffer, weight: &Buffer) {
    let (h, w) = g.out_size();
    assert_eq!(input.len(), g.batch * g.height * g.width * g.inputs, "input of {g:?}");
    assert_eq!(output.len(), g.batch * h * w * g.outputs, "output of {g:?}");
    assert_eq!(weight.len(), g.taps() * g.inputs * g.outputs, "weight of {g:?}");
}

fn check_pool(g: &Pool, input: &Buffer, output: &Buffer) {
    let (h, w) = g.out_size();
    assert_eq!(input.len(), elements(&g.plane), "input of {g:?}");
    assert_eq!(output.len(), g.plane.batch * h * w * g.plane.channels, "output of {g:?}");
}

fn pool_sizes(g: &Pool) -> [Operand; 11] {
    let Window { sides: [rows, columns], stride, before: [above, left], .. } = g.window;
    let (h, w) = g.out_size();
    arguments![g.plane.height, g.plane.width, g.plane.channels, rows, columns, stride, above, left, h, w, g.mean]
}

fn check_attention(g: &Attention, input: &Buffer, output: &Buffer, weights: &Buffer) {
    let elements = g.batch * g.tokens * g.channels;
    assert_eq!([input.len(), output.len()], [3 * elements, elements], "input and output of {g:?}");
    assert_eq!(weights.len(), g.batch * g.heads * g.tokens * g.tokens, "weights of {g:?}");
}

fn elements(g: &Plane) -> usize {
    g.batch * g.height * g.width * g.channels
}

fn cropped(g: &Plane, margin: usize) -> Plane {
    Plane { height: g.height - 2 * margin, width: g.width - 2 * margin, ..*g }
}

/// Channels of `a` and of `b` in `rows` pixels, where `joined` has both.
fn row_lengths(rows: usize, a: &Buffer, b: &Buffer, joined: &Buffer) -> [usize; 2] {
    assert!(a.len().is_multiple_of(rows) && b.len().is_multiple_of(rows), "arrays of {rows} pixels");
    assert_eq!(joined.len(), a.len() + b.len(), "channels of both");
    [a.len() / rows, b.len() / rows]
}
