//! What steps measured, kept on the device until somebody asks: no step waits for it.

use super::together::Together;
use crate::backend::Backend;
use rissole::Result;

/// Steps whose measures are kept.
pub const KEPT: usize = 64;

/// The measures of the last [`KEPT`] steps.
#[derive(Debug)]
pub struct Measures<B: Backend> {
    columns: usize,
    /// `KEPT × columns`.
    log: B::Buffer,
    /// The row of the step that is being done.
    row: B::Buffer,
    /// Steps begun.
    begun: usize,
    /// Steps that were asked about.
    told: usize,
}

impl<B: Backend> Measures<B> {
    /// Of so many values a step, each zero until it is noted for the first time; from then on every step does.
    pub fn new(backend: &B, columns: usize) -> Self {
        Self { columns, log: backend.zeros(KEPT * columns), row: backend.zeros(1), begun: 0, told: 0 }
    }

    /// Begins a step; not to be recorded.
    pub fn begin(&mut self, backend: &B) {
        backend.write(&[(self.begun % KEPT) as f32], &mut self.row);
        self.begun += 1;
    }

    /// Notes what the step measured: values for the columns from `column` on.
    pub fn note(&mut self, backend: &B, column: usize, values: &B::Buffer) {
        backend.note(values, [column, self.columns], &self.row, &mut self.log);
    }

    /// The measures of the steps since the last call, but at most [`KEPT`], in order; of all processes that train
    /// together, the mean. Waits for the device.
    ///
    /// # Errors
    /// As [`Backend::check`] and [`Together::average_values`].
    pub fn take(&mut self, backend: &B, together: Together) -> Result<Vec<Vec<f64>>> {
        let first = self.told.max(self.begun.saturating_sub(KEPT));
        self.told = self.begun;
        if first == self.begun {
            return Ok(vec![]);
        }
        let log = backend.download(&self.log);
        let row = |step: usize| log[step % KEPT * self.columns..][..self.columns].iter().copied();
        let mut values: Vec<f32> = (first..self.begun).flat_map(row).collect();
        // A process whose device failed leaves, and does not seem to diverge.
        backend.check()?;
        together.average_values(&mut values)?;
        Ok(values.chunks_exact(self.columns).map(|row| row.iter().map(|&v| f64::from(v)).collect()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;

    #[test]
    fn the_steps_since_the_last_call_are_told_once_and_in_order() {
        let cpu = Cpu::default();
        let mut measures = Measures::new(&cpu, 3);
        let step = |measures: &mut Measures<Cpu>, i: usize| {
            measures.begin(&cpu);
            measures.note(&cpu, 1, &cpu.upload(&[i as f32, -(i as f32)]));
        };
        let row = |i: usize| vec![0.0, i as f64, -(i as f64)];
        (0..3).for_each(|i| step(&mut measures, i));
        assert_eq!(measures.take(&cpu, Together::alone()).unwrap(), [row(0), row(1), row(2)]);
        assert!(measures.take(&cpu, Together::alone()).unwrap().is_empty());
        (3..3 + 2 * KEPT).for_each(|i| step(&mut measures, i));
        let last: Vec<_> = (3 + KEPT..3 + 2 * KEPT).map(row).collect();
        assert_eq!(measures.take(&cpu, Together::alone()).unwrap(), last);
    }
}
