//! Processes, on one machine or several, that train one network together: each takes its share of every batch, and
//! their gradients are averaged, so that all have the same weights at every step.
//!
//! Sums go through the process of rank 0 over TCP, in the order of ranks: the same bits for everyone, every time.
//! Whoever can reach the port could speak: for networks that one trusts.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::time::{Duration, Instant};

use rissole::{Error, Result};

const GREETING: [u8; 8] = *b"RSLGROUP";
/// Time for all processes to come together.
const PATIENCE: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_millis(50);
/// Time for a stranger at the port to greet.
const GREETING_PATIENCE: Duration = Duration::from_secs(10);
/// Most processes.
const MAX_SIZE: usize = 1024;

/// This process among those that train together.
#[derive(Debug)]
pub struct Group {
    rank: usize,
    size: usize,
    /// Of rank 0: to ranks 1, 2 …; of the others: to rank 0.
    links: Vec<TcpStream>,
}

/// Who this process is, and where rank 0 listens.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    rank: usize,
    size: usize,
    address: String,
    port: u16,
}

impl Group {
    /// A process for itself.
    pub fn alone() -> Self {
        Self { rank: 0, size: 1, links: Vec::new() }
    }

    /// The group that a launcher describes: `RANK` and `WORLD_SIZE` (torchrun and most others) or `SLURM_PROCID` and
    /// `SLURM_NTASKS`, with `MASTER_ADDR` and `MASTER_PORT`. Without them this process is alone. Waits for all.
    ///
    /// # Errors
    /// [`Error::Usage`] for variables that contradict each other, or when the others do not come.
    pub fn from_env() -> Result<Self> {
        match Place::read(|name| std::env::var(name).ok())? {
            None => Ok(Self::alone()),
            Some(place) => Self::meet(&place, PATIENCE),
        }
    }

    fn meet(place: &Place, patience: Duration) -> Result<Self> {
        let &Place { rank, size, port, ref address } = place;
        let until = Instant::now() + patience;
        let links = match rank {
            0 => {
                let listener = TcpListener::bind((address.as_str(), port))
                    .map_err(|e| fault(format!("cannot listen on {address}:{port}: {e}")))?;
                accept(&listener, size, until)?
            }
            _ => vec![reach(place, until)?],
        };
        log::info!("rank {rank} of {size} processes");
        Ok(Self { rank, size, links })
    }

    /// Number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether there is no other process.
    pub fn is_alone(&self) -> bool {
        self.size == 1
    }

    /// Whether this process writes files and speaks to the user.
    pub fn leads(&self) -> bool {
        self.rank == 0
    }

    /// The part of a batch of `count` that is this process's.
    ///
    /// # Errors
    /// [`Error::Usage`] when it cannot be cut into equal parts.
    pub fn share(&self, count: usize) -> Result<Range<usize>> {
        if !count.is_multiple_of(self.size) {
            return Err(fault(format!("a batch of {count} cannot be shared equally by {} processes", self.size)));
        }
        let part = count / self.size;
        Ok(self.rank * part..(self.rank + 1) * part)
    }

    /// Replaces `values` by their mean over all processes, which all give equally many.
    ///
    /// # Errors
    /// [`Error::Usage`] when a process is gone.
    pub fn average(&self, values: &mut [f32]) -> Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        self.exchange(values).map_err(|e| fault(format!("a process of the group is gone: {e}")))
    }

    fn exchange(&self, values: &mut [f32]) -> std::io::Result<()> {
        let mut bytes = vec![0; size_of_val(values)];
        if self.leads() {
            for mut link in &self.links {
                link.read_exact(&mut bytes)?;
                values.iter_mut().zip(bytes.chunks_exact(4)).for_each(|(v, b)| *v += f32_of(b));
            }
            values.iter_mut().for_each(|v| *v /= self.size as f32);
        }
        bytes.chunks_exact_mut(4).zip(values.iter()).for_each(|(b, v)| b.copy_from_slice(&v.to_le_bytes()));
        for mut link in &self.links {
            link.write_all(&bytes)?;
        }
        if !self.leads() {
            (&self.links[0]).read_exact(&mut bytes)?;
            values.iter_mut().zip(bytes.chunks_exact(4)).for_each(|(v, b)| *v = f32_of(b));
        }
        Ok(())
    }

    /// Gives all processes the bytes of the one that leads, in place of as many of their own.
    ///
    /// # Errors
    /// As [`Self::average`].
    pub fn share_bytes(&self, bytes: &mut [u8]) -> Result<()> {
        let share = |bytes: &mut [u8]| match self.leads() {
            true => self.links.iter().try_for_each(|mut link| link.write_all(bytes)),
            false => (&self.links[0]).read_exact(bytes),
        };
        share(bytes).map_err(|e| fault(format!("a process of the group is gone: {e}")))
    }

    /// Whether `flag` is set in any process.
    ///
    /// # Errors
    /// As [`Self::average`].
    pub fn any(&self, flag: bool) -> Result<bool> {
        let mut value = [f32::from(u8::from(flag))];
        self.average(&mut value)?;
        Ok(value[0] > 0.0)
    }
}

impl Place {
    /// What the variables say; none for a process that is alone.
    fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let number = |name: &str| {
            let text = variable(name);
            let parsed = text.map(|t| t.parse::<usize>().map_err(|_| fault(format!("{name} is {t:?}, not a number"))));
            parsed.transpose()
        };
        // Within SLURM a launcher of its own may have set the first two.
        let named = |names: [&'static str; 2]| Ok::<_, Error>((number(names[0])?, number(names[1])?));
        let (rank, size) = match named(["RANK", "WORLD_SIZE"])? {
            (None, None) => named(["SLURM_PROCID", "SLURM_NTASKS"])?,
            found => found,
        };
        let (Some(rank), Some(size)) = (rank, size.filter(|&size| size != 1)) else { return Ok(None) };
        if rank >= size || size > MAX_SIZE {
            return Err(fault(format!(
                "rank {rank} of {size} processes: ranks are below their number, at most {MAX_SIZE}"
            )));
        }
        let address = variable("MASTER_ADDR")
            .ok_or_else(|| fault(format!("{size} processes, but MASTER_ADDR does not say where rank 0 listens")))?;
        let port = number("MASTER_PORT")?.unwrap_or(29_500);
        // torchrun listens on the port itself.
        let taken = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|v| v == "True");
        let port =
            u16::try_from(port + usize::from(taken)).map_err(|_| fault(format!("MASTER_PORT {port} is no port")))?;
        Ok(Some(Self { rank, size, address, port }))
    }

    fn greeting(&self) -> [u8; 16] {
        let mut greeting = [0; 16];
        greeting[..8].copy_from_slice(&GREETING);
        greeting[8..12].copy_from_slice(&(self.rank as u32).to_le_bytes());
        greeting[12..].copy_from_slice(&(self.size as u32).to_le_bytes());
        greeting
    }
}

/// Links to ranks 1…`size`−1, in order.
fn accept(listener: &TcpListener, size: usize, until: Instant) -> Result<Vec<TcpStream>> {
    let broken = |e: std::io::Error| fault(format!("cannot listen: {e}"));
    listener.set_nonblocking(true).map_err(broken)?;
    let mut links: Vec<Option<TcpStream>> = (1..size).map(|_| None).collect();
    while links.iter().any(Option::is_none) {
        match listener.accept() {
            Ok((link, from)) => match greet(link, size) {
                Ok((rank, link)) => links[rank - 1] = Some(link),
                Err(e) => log::warn!("{from} is not of this group: {e}"),
            },
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                if Instant::now() > until {
                    return Err(fault(format!("not all of {size} processes came")));
                }
                std::thread::sleep(RETRY);
            }
            Err(e) => return Err(broken(e)),
        }
    }
    Ok(links.into_iter().flatten().collect())
}

/// Reads who comes, and answers.
fn greet(mut link: TcpStream, size: usize) -> std::io::Result<(usize, TcpStream)> {
    link.set_nonblocking(false)?;
    link.set_nodelay(true)?;
    link.set_read_timeout(Some(GREETING_PATIENCE))?;
    let mut greeting = [0; 16];
    link.read_exact(&mut greeting)?;
    let number = |at: usize| u32::from_le_bytes([greeting[at], greeting[at + 1], greeting[at + 2], greeting[at + 3]]);
    let (rank, of) = (number(8) as usize, number(12) as usize);
    if greeting[..8] != GREETING || of != size || !(1..size).contains(&rank) {
        return Err(std::io::Error::other(format!("rank {rank} of {of}, expected 1 to {} of {size}", size - 1)));
    }
    link.write_all(&GREETING)?;
    // The leader may work alone for hours while the others wait.
    link.set_read_timeout(None)?;
    Ok((rank, link))
}

/// The link to rank 0, which may start later.
fn reach(place: &Place, until: Instant) -> Result<TcpStream> {
    let attempt = || -> std::io::Result<TcpStream> {
        let mut link = TcpStream::connect((place.address.as_str(), place.port))?;
        link.set_nodelay(true)?;
        link.set_read_timeout(Some(GREETING_PATIENCE))?;
        link.write_all(&place.greeting())?;
        let mut answer = [0; 8];
        link.read_exact(&mut answer)?;
        link.set_read_timeout(None)?;
        if answer == GREETING { Ok(link) } else { Err(std::io::Error::other("someone else answers")) }
    };
    loop {
        match attempt() {
            Ok(link) => return Ok(link),
            Err(e) if Instant::now() > until => {
                return Err(fault(format!("rank 0 is not at {}:{}: {e}", place.address, place.port)));
            }
            Err(_) => std::thread::sleep(RETRY),
        }
    }
}

fn f32_of(bytes: &[u8]) -> f32 {
    f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn fault(text: String) -> Error {
    Error::Usage(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `work` in `size` processes' places, on threads, and gives what each returns.
    fn together<T: Send>(size: usize, work: impl Fn(Group) -> T + Sync) -> Vec<T> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        std::thread::scope(|scope| {
            let started: Vec<_> = (0..size)
                .map(|rank| {
                    let place = Place { rank, size, address: "127.0.0.1".into(), port };
                    let work = &work;
                    scope.spawn(move || work(Group::meet(&place, Duration::from_secs(30)).unwrap()))
                })
                .collect();
            started.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn every_process_gets_the_same_mean() {
        let means = together(3, |group| {
            let mut values = [group.rank as f32, 0.1 * (1.0 + group.rank as f32), 1e8];
            group.average(&mut values).unwrap();
            let mut bytes = [group.rank as u8 + 7; 5];
            group.share_bytes(&mut bytes).unwrap();
            assert_eq!(bytes, [7; 5]);
            (values.map(f32::to_bits), group.any(group.rank == 2).unwrap(), group.any(false).unwrap())
        });
        let expected = [1.0, (0.1 + 0.2 + 0.3) / 3.0, 1e8f32];
        for (bits, any, none) in &means {
            assert_eq!(bits, &means[0].0);
            assert!(bits.iter().zip(expected).all(|(&bits, e)| (f32::from_bits(bits) - e).abs() <= 1e-6 * e));
            assert!(*any && !none);
        }
    }

    #[test]
    fn shares_are_equal_and_cover_the_batch() {
        let shares = together(4, |group| (group.share(8).unwrap(), group.share(6).is_err()));
        let covered: Vec<usize> = shares.iter().flat_map(|(share, _)| share.clone()).collect();
        assert!(covered == (0..8).collect::<Vec<_>>() && shares.iter().all(|(_, refused)| *refused));
        assert_eq!(Group::alone().share(7).unwrap(), 0..7);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error_for_all() {
        let ends = together(3, |group| match group.rank {
            1 => None,
            _ => Some(group.average(&mut [0.0; 1000]).is_err()),
        });
        assert_eq!(ends, [Some(true), None, Some(true)]);
    }

    #[test]
    fn strangers_are_turned_away() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let place = |rank, size| Place { rank, size, address: "127.0.0.1".into(), port: at.port() };
        std::thread::scope(|scope| {
            let leader = scope.spawn(|| accept(&listener, 2, Instant::now() + Duration::from_secs(30)));
            TcpStream::connect(at).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            assert!(reach(&place(1, 3), Instant::now()).is_err(), "of another group");
            reach(&place(1, 2), Instant::now() + Duration::from_secs(30)).unwrap();
            assert_eq!(leader.join().unwrap().unwrap().len(), 1);
        });
    }

    #[test]
    fn launchers_say_who_is_who() {
        let read = |variables: &[(&str, &str)]| {
            let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            Place::read(find)
        };
        let place = |rank, size, port| Some(Place { rank, size, address: "a".into(), port });
        let (at, port) = (("MASTER_ADDR", "a"), ("MASTER_PORT", "7"));
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap(), None);
        assert_eq!(read(&[("RANK", "1"), ("WORLD_SIZE", "2"), at, port]).unwrap(), place(1, 2, 7));
        assert_eq!(read(&[("SLURM_PROCID", "3"), ("SLURM_NTASKS", "4"), at]).unwrap(), place(3, 4, 29_500));
        let agent = ("TORCHELASTIC_USE_AGENT_STORE", "True");
        assert_eq!(read(&[("RANK", "1"), ("WORLD_SIZE", "2"), at, port, agent]).unwrap(), place(1, 2, 8));
        let wrong: [&[(&str, &str)]; 5] = [
            &[("RANK", "2"), ("WORLD_SIZE", "2"), at],
            &[("RANK", "1"), ("WORLD_SIZE", "2")],
            &[("RANK", "x"), ("WORLD_SIZE", "2"), at],
            &[("RANK", "1"), ("WORLD_SIZE", "2"), at, ("MASTER_PORT", "70000")],
            &[("RANK", "0"), ("WORLD_SIZE", "5000"), at],
        ];
        assert!(wrong.iter().all(|variables| read(variables).is_err()));
    }
}
