//! Which rank this process is: read from the variables that existing launchers set.
//!
//! Nothing is started here; `mpirun`, `srun` and `torchrun` do that.

use crate::{Error, Result};

/// The place of this process among those that train together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// From 0; rank 0 writes the logs and the checkpoints.
    pub rank: usize,
    /// How many there are, at least 1.
    pub size: usize,
    /// Its number on this machine: the ordinal of its GPU.
    pub local_rank: usize,
    /// Who started it, for messages.
    pub launcher: &'static str,
}

/// The variables of one launcher.
struct Launcher {
    name: &'static str,
    rank: &'static str,
    size: &'static str,
    local_rank: &'static str,
}

/// In the order of asking: a launcher inside an allocation of Slurm knows better than Slurm.
const LAUNCHERS: &[Launcher] = &[
    Launcher {
        name: "mpirun",
        rank: "OMPI_COMM_WORLD_RANK",
        size: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
    },
    Launcher { name: "mpiexec", rank: "PMI_RANK", size: "PMI_SIZE", local_rank: "MPI_LOCALRANKID" },
    Launcher { name: "torchrun", rank: "RANK", size: "WORLD_SIZE", local_rank: "LOCAL_RANK" },
    Launcher { name: "srun", rank: "SLURM_PROCID", size: "SLURM_NTASKS", local_rank: "SLURM_LOCALID" },
];

impl Launch {
    /// One process on its own.
    pub fn alone() -> Self {
        Self { rank: 0, size: 1, local_rank: 0, launcher: "nobody" }
    }

    /// What the environment says; without a launcher, one rank.
    ///
    /// # Errors
    /// A launcher's variables contradict each other.
    pub fn from_environment() -> Result<Self> {
        Self::detect(&|name| std::env::var(name).ok())
    }

    fn detect(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let present =
            |launcher: &&Launcher| [launcher.rank, launcher.size].iter().all(|n| lookup(n).is_some());
        match LAUNCHERS.iter().find(present) {
            Some(launcher) => launcher.read(lookup),
            None => Ok(Self::alone()),
        }
    }
}

impl Launcher {
    fn read(&self, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Launch> {
        let (rank, size) = (number(self.rank, lookup)?, number(self.size, lookup)?);
        if rank >= size {
            let (rank_name, size_name) = (self.rank, self.size);
            let found = format!("{rank_name}={rank} and {size_name}={size}");
            return Err(Error::request(format!("expected {rank_name} below {size_name}, found {found}")));
        }
        let local = if lookup(self.local_rank).is_some() { number(self.local_rank, lookup)? } else { rank };
        Ok(Launch { rank, size, local_rank: local, launcher: self.name })
    }
}

fn number(name: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<usize> {
    let text = lookup(name).unwrap_or_default();
    let wrong = || Error::request(format!("environment variable {name}: expected a number, found {text:?}"));
    text.trim().parse().map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(variables: &[(&str, &str)]) -> Result<Launch> {
        let find =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, text)| text.to_string());
        Launch::detect(&find)
    }

    #[test]
    fn every_launcher_is_understood() {
        let launch = |rank, size, local_rank, launcher| Launch { rank, size, local_rank, launcher };
        assert_eq!(detect(&[]).unwrap(), Launch::alone());
        for Launcher { name, rank, size, local_rank } in LAUNCHERS {
            let found = detect(&[(rank, "3"), (size, "4"), (local_rank, "1")]).unwrap();
            assert_eq!(found, launch(3, 4, 1, name));
            assert_eq!(detect(&[(rank, "1"), (size, "2")]).unwrap(), launch(1, 2, 1, name));
        }
        let both = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1"), ("RANK", "5"), ("WORLD_SIZE", "8")];
        assert_eq!(detect(&both).unwrap().launcher, "torchrun");
        assert_eq!(detect(&[("RANK", "5")]).unwrap(), Launch::alone(), "a stray RANK is no launcher");
    }

    #[test]
    fn contradictions_are_named() {
        let error = |rank| detect(&[("RANK", rank), ("WORLD_SIZE", "2")]).unwrap_err().to_string();
        assert!(error("2").contains("RANK=2 and WORLD_SIZE=2"));
        assert!(error("two").contains("RANK: expected a number, found \"two\""));
    }
}
