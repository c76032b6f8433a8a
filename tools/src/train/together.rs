//! Training with other processes: each is given its share of every batch, and what all must agree on is averaged.

use rissole::Result;

use crate::backend::Backend;
use crate::group::Group;

/// The processes that train a network, and how they come to agree.
#[derive(Debug, Clone, Copy)]
pub struct Together<'a> {
    /// None for a process that is alone.
    group: Option<&'a Group>,
    /// Whether the devices average among themselves.
    joined: bool,
}

impl<'a> Together<'a> {
    /// A process for itself.
    pub fn alone() -> Self {
        Self { group: None, joined: false }
    }

    /// The processes of `group`, whose devices are joined if all of them can be.
    ///
    /// # Errors
    /// As [`Backend::join`] and [`Group::any`].
    pub fn within<B: Backend>(backend: &B, group: &'a Group) -> Result<Self> {
        if group.is_alone() {
            return Ok(Self::alone());
        }
        let joined = !group.any(!backend.can_join())?;
        if joined {
            backend.join(group)?;
            log::info!("the devices average gradients among themselves");
        }
        Ok(Self { group: Some(group), joined })
    }

    /// Number of this process.
    pub fn rank(self) -> usize {
        self.group.map_or(0, Group::rank)
    }

    /// How many processes there are.
    pub fn size(self) -> usize {
        self.group.map_or(1, Group::size)
    }

    /// Replaces each array, of floats, by its mean over the processes.
    ///
    /// # Errors
    /// As [`Group::average`].
    pub fn average<B: Backend>(self, backend: &B, arrays: &mut [&mut B::Buffer]) -> Result<()> {
        let Some(group) = self.group else { return Ok(()) };
        if self.joined {
            backend.average(arrays);
            return Ok(());
        }
        let each: Vec<Vec<f32>> = arrays.iter().map(|array| backend.download(array)).collect();
        let mut all = each.concat();
        group.average(&mut all)?;
        let mut rest = all.as_slice();
        for (array, values) in arrays.iter_mut().zip(each) {
            let (mean, after) = rest.split_at(values.len());
            backend.write(mean, array);
            rest = after;
        }
        Ok(())
    }

    /// The same of values on the host.
    ///
    /// # Errors
    /// As [`Group::average`].
    pub fn average_values(self, values: &mut [f32]) -> Result<()> {
        self.group.map_or(Ok(()), |group| group.average(values))
    }

    /// The values of all processes, which give equally many, in the order of their ranks.
    ///
    /// # Errors
    /// As [`Group::average`].
    pub fn gather(self, values: &[f32]) -> Result<Vec<f32>> {
        let mut all = vec![0.0; self.size() * values.len()];
        // The mean of one value and zeros is its part of that value.
        let scaled = values.iter().map(|v| v * self.size() as f32);
        all[self.rank() * values.len()..].iter_mut().zip(scaled).for_each(|(to, v)| *to = v);
        self.average_values(&mut all)?;
        Ok(all)
    }

    /// Parts the devices again, when all processes have trained to the end.
    ///
    /// # Errors
    /// As [`Backend::part`].
    pub fn leave<B: Backend>(self, backend: &B) -> Result<()> {
        if self.joined { backend.part() } else { Ok(()) }
    }

    /// Does `work` as [`Backend::repeat`], recorded where it does without the host.
    ///
    /// # Errors
    /// That of `work`.
    pub fn repeat<B: Backend>(
        self,
        backend: &B,
        recording: &mut B::Recording,
        mut work: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        if self.group.is_some() && !self.joined {
            return work();
        }
        let mut outcome = Ok(());
        backend.repeat(recording, || outcome = work());
        outcome
    }
}
