//! Placement: GPU → NUMA node → cores near it → shards.
//!
//! Computed once at start-up from the device inventory, sysfs and the cores the
//! daemon may use, and printed, so that an operator sees where work will run.
//! This module decides and prints; it pins nothing itself. Where there are too
//! few cores for everyone to have their own, nothing is pinned: a scheduler
//! that may move threads does better than two pinned threads on one core.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use fusewire_wire::inventory::DeviceInfo;

/// Where everything runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The core of the executor that accepts; `None` when not pinned.
    pub front: Option<u32>,
    /// One entry per GPU, in the driver's order.
    pub gpus: Vec<GpuPlacement>,
}

/// What is near one GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuPlacement {
    /// The device's name.
    pub name: String,
    /// Its PCI address, as sysfs writes it.
    pub pci: String,
    /// Its NUMA node, where the machine says.
    pub node: Option<u32>,
    /// The core of the daemon's executor for this GPU; `None` when not pinned.
    pub executor: Option<u32>,
    /// Cores near the GPU that its workers may use.
    pub near: Vec<u32>,
    /// Cores handed out to session shards in turn; empty when nothing is pinned.
    pub shards: Vec<u32>,
}

impl Placement {
    /// Places `devices` on the `usable` cores. `sysfs` is `/sys`, or a stand-in for tests.
    #[must_use]
    pub fn compute(devices: &[DeviceInfo], usable: &[u32], sysfs: &Path) -> Self {
        let found: Vec<(Option<u32>, Vec<u32>)> =
            devices.iter().map(|device| near(&device.pci_text(), usable, sysfs)).collect();
        // One core to accept, then for each GPU one for its executor and at least one shard.
        let pinned = usable.len() > 2 * devices.len().max(1);
        let front = if pinned { usable.first().copied() } else { None };
        let gpus = devices
            .iter()
            .enumerate()
            .map(|(index, device)| {
                let (node, near) = &found[index];
                let mine = if pinned { share(index, &found, front) } else { Vec::new() };
                let (executor, shards) = match mine.as_slice() {
                    [] => (None, Vec::new()),
                    [only] => (None, vec![*only]),
                    [first, rest @ ..] => (Some(*first), rest.to_vec()),
                };
                GpuPlacement {
                    name: device.name_text(),
                    pci: device.pci_text(),
                    node: *node,
                    executor,
                    near: near.clone(),
                    shards,
                }
            })
            .collect();
        Self { front, gpus }
    }

    /// The table printed at start-up, one line per row, without line ends.
    #[must_use]
    pub fn table(&self) -> Vec<String> {
        let core = |core: Option<u32>| core.map_or_else(|| "any".to_owned(), |core| format!("core {core}"));
        let width = self.gpus.iter().map(|gpu| gpu.name.chars().count()).max().unwrap_or(0).clamp(6, 40);
        let mut rows =
            vec![format!("gpu  {:width$}  pci           node  executor  shards      near cores", "device")];
        for (index, gpu) in self.gpus.iter().enumerate() {
            let mut row = String::new();
            let name: String = gpu.name.chars().take(width).collect();
            let node = gpu.node.map_or_else(|| "-".to_owned(), |node| node.to_string());
            let shards = if gpu.shards.is_empty() { "any".to_owned() } else { format_cpulist(&gpu.shards) };
            // Writing to a String cannot fail.
            let _ = write!(
                row,
                "{index:<3}  {name:width$}  {:<12}  {node:<4}  {:<8}  {shards:<10}  {}",
                gpu.pci,
                core(gpu.executor),
                format_cpulist(&gpu.near),
            );
            rows.push(row);
        }
        rows.push(format!("accepting on {}", core(self.front)));
        rows
    }
}

/// The NUMA node of a PCI device and the usable cores near it. A machine that
/// does not say, or says cores that are not usable, gets all usable ones.
fn near(pci: &str, usable: &[u32], sysfs: &Path) -> (Option<u32>, Vec<u32>) {
    let device = sysfs.join("bus/pci/devices").join(pci);
    let read = |name: &str| fs::read_to_string(device.join(name)).ok();
    // -1 means that the firmware does not say.
    let node = read("numa_node").and_then(|text| text.trim().parse::<u32>().ok());
    let list = read("local_cpulist").and_then(|text| parse_cpulist(&text)).or_else(|| {
        let list = sysfs.join(format!("devices/system/node/node{}/cpulist", node?));
        parse_cpulist(&fs::read_to_string(list).ok()?)
    });
    let near: Vec<u32> = list.unwrap_or_default().into_iter().filter(|core| usable.contains(core)).collect();
    (node, if near.is_empty() { usable.to_vec() } else { near })
}

/// The cores of GPU `index`: GPUs that are near the same cores divide them, so
/// that the shards of different GPUs do not meet on one core.
fn share(index: usize, found: &[(Option<u32>, Vec<u32>)], front: Option<u32>) -> Vec<u32> {
    let near = &found[index].1;
    let group: Vec<usize> = (0..found.len()).filter(|&other| found[other].1 == *near).collect();
    let cores: Vec<u32> = near.iter().copied().filter(|&core| Some(core) != front).collect();
    let place = group.iter().position(|&member| member == index).unwrap_or(0);
    let (from, to) =
        (cores.len() * place / group.len().max(1), cores.len() * (place + 1) / group.len().max(1));
    if from == to { cores } else { cores[from..to].to_vec() }
}

/// Reads a kernel CPU list such as `0-3,8,10-11`. `None` when it is not one.
#[must_use]
pub fn parse_cpulist(text: &str) -> Option<Vec<u32>> {
    /// More than any machine has, and little enough to list.
    const MAX_CPU: u32 = 8192;
    let mut cores = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u32, u32) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
        if from > to || to >= MAX_CPU {
            return None;
        }
        cores.extend(from..=to);
    }
    cores.sort_unstable();
    cores.dedup();
    Some(cores)
}

/// Writes a CPU list the way the kernel does: `0-3,8`.
#[must_use]
pub fn format_cpulist(cores: &[u32]) -> String {
    let mut out = String::new();
    let mut rest = cores;
    while let [first, ..] = rest {
        let run = rest.iter().enumerate().take_while(|&(i, &core)| core == first + i as u32).count();
        let comma = if out.is_empty() { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = match run {
            1 => write!(out, "{comma}{first}"),
            _ => write!(out, "{comma}{first}-{}", rest[run - 1]),
        };
        rest = &rest[run..];
    }
    out
}

/// The cores this process may run on, in order; empty when the kernel will not say.
#[must_use]
pub fn usable_cores() -> Vec<u32> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU)
            .filter(|&core| set.is_set(core))
            .map(|core| core as u32)
            .collect(),
        Err(_) => Vec::new(),
    }
}

/// Confines this thread, and the threads it starts from now on, to `cores`.
///
/// # Errors
/// What the kernel says: a core that does not exist, or is not in the process's cpuset.
pub fn confine(cores: &[u32]) -> std::io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    for &core in cores {
        if (core as usize) < rustix::thread::CpuSet::MAX_CPU {
            set.set(core as usize);
        }
    }
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    fn gpu(bus: u32) -> DeviceInfo {
        let mut device = DeviceInfo::new_zeroed();
        device.pci_bus = bus;
        fusewire_wire::inventory::set_text(&mut device.name, "NVIDIA H200");
        device
    }

    fn sysfs(gpus: &[(u32, &str, &str)]) -> std::path::PathBuf {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let root = std::env::temp_dir().join(format!(
            "fusewire-placement-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        ));
        for (bus, node, list) in gpus {
            let dir = root.join("bus/pci/devices").join(gpu(*bus).pci_text());
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("numa_node"), node).unwrap();
            fs::write(dir.join("local_cpulist"), list).unwrap();
        }
        root
    }

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpulist("0-3,8,10-11\n"), Some(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(parse_cpulist("\n"), Some(vec![]));
        for bad in ["a", "3-1", "0-", "-1", "0-99999999999", "1;2"] {
            assert_eq!(parse_cpulist(bad), None, "{bad}");
        }
        assert_eq!(format_cpulist(&[0, 1, 2, 3, 8, 10, 11]), "0-3,8,10-11");
        assert_eq!(format_cpulist(&[]), "");
    }

    #[test]
    fn a_gpu_gets_the_cores_of_its_node() {
        let root = sysfs(&[(1, "0\n", "0-7\n"), (2, "1\n", "8-15\n")]);
        let usable: Vec<u32> = (0..16).collect();
        let placed = Placement::compute(&[gpu(1), gpu(2)], &usable, &root);
        assert_eq!(placed.front, Some(0));
        assert_eq!(placed.gpus[0].executor, Some(1));
        assert_eq!(placed.gpus[0].shards, (2..8).collect::<Vec<_>>());
        assert_eq!(placed.gpus[1].node, Some(1));
        assert_eq!(placed.gpus[1].executor, Some(8));
        assert_eq!(placed.gpus[1].shards, (9..16).collect::<Vec<_>>());
        let table = placed.table().join("\n");
        assert!(table.contains("0000:02:00.0") && table.contains("9-15"), "{table}");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn gpus_on_one_node_divide_its_cores() {
        let root = sysfs(&[(1, "0", "0-8"), (2, "0", "0-8")]);
        let usable: Vec<u32> = (0..9).collect();
        let placed = Placement::compute(&[gpu(1), gpu(2)], &usable, &root);
        assert_eq!((placed.gpus[0].executor, &placed.gpus[0].shards[..]), (Some(1), &[2, 3, 4][..]));
        assert_eq!((placed.gpus[1].executor, &placed.gpus[1].shards[..]), (Some(5), &[6, 7, 8][..]));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn few_cores_are_not_pinned_and_unknown_places_get_all() {
        let nowhere = Path::new("/nonexistent");
        let placed = Placement::compute(&[gpu(1), gpu(2)], &[0, 1], nowhere);
        assert_eq!(placed.front, None);
        assert!(placed.gpus.iter().all(|gpu| gpu.executor.is_none() && gpu.shards.is_empty()));
        assert_eq!(placed.gpus[0].near, [0, 1]);
        assert_eq!(placed.gpus[0].node, None);
        // sysfs names cores that this process may not use.
        let root = sysfs(&[(1, "-1", "32-63")]);
        let placed = Placement::compute(&[gpu(1)], &[0, 1, 2, 3], &root);
        assert_eq!(placed.gpus[0].near, [0, 1, 2, 3]);
        assert_eq!(
            (placed.front, placed.gpus[0].executor, placed.gpus[0].shards.len()),
            (Some(0), Some(1), 2)
        );
        assert_eq!(Placement::compute(&[], &[], nowhere).front, None);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_thread_can_be_confined_and_let_go_again() {
        let all = usable_cores();
        let seen = std::thread::spawn(move || {
            confine(&all[..1]).unwrap();
            let one = usable_cores();
            confine(&all).unwrap();
            (one, usable_cores(), confine(&[]).is_err())
        });
        let all = usable_cores();
        assert_eq!(seen.join().unwrap(), (all[..1].to_vec(), all, true));
    }
}
