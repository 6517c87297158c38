//! The store under the faults of `docs/faults.md`, caused for real. A program of its own: together
//! they take minutes, and some of them need the machine for themselves.

#[cfg(test)]
#[path = "contract/breakable.rs"]
mod breakable;
#[cfg(test)]
#[path = "contract/network.rs"]
mod network;
#[cfg(test)]
#[path = "contract/process.rs"]
mod process;
#[cfg(test)]
#[path = "contract/support.rs"]
#[allow(dead_code, reason = "the other tests use more of it")]
mod support;
#[cfg(test)]
#[path = "contract/verdicts.rs"]
mod verdicts;

#[cfg(test)]
#[path = "contract/clock.rs"]
mod clock;
#[cfg(test)]
#[path = "contract/disk.rs"]
mod disk;
#[cfg(test)]
#[path = "contract/faults.rs"]
mod faults;
#[cfg(test)]
#[path = "contract/races.rs"]
mod races;
#[cfg(test)]
#[path = "contract/replicas.rs"]
mod replicas;
#[cfg(test)]
#[path = "contract/restore.rs"]
mod restore;
#[cfg(test)]
#[path = "contract/standby.rs"]
mod standby;
#[cfg(test)]
#[path = "contract/weather.rs"]
mod weather;
