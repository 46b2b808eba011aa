//! What programs are told: NVIDIA's Python bindings over the library, and a server whose answers are known.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use fusewire_wire::inventory::{
    DeviceInfo, FIGURES, Figure, Inventory, KNOWN_MEMORY_USED, KNOWN_TEMPERATURE, set_text,
};
use support::Server;
use zerocopy::FromZeros;

mod support;

fn device(index: u8) -> DeviceInfo {
    let mut device = DeviceInfo::new_zeroed();
    set_text(&mut device.name, "A GPU");
    device.uuid = [index; 16];
    device.memory_total = 100 << 30;
    (device.compute_major, device.compute_minor) = (9, 0);
    (device.pci_domain, device.pci_bus) = (1, 0x3a + u32::from(index));
    device
}

/// Two devices: of the first everything is known, each figure by its own number; of the second next to nothing.
fn inventory() -> Inventory {
    let mut known = device(1);
    set_text(&mut known.serial, "16");
    set_text(&mut known.vbios, "96.00");
    set_text(&mut known.part_number, "900-2");
    for (index, word) in known.figures_known.iter_mut().enumerate() {
        let bits = FIGURES.saturating_sub(index * 64).min(64);
        *word = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
    }
    for (index, figure) in known.figures.iter_mut().enumerate() {
        *figure = 1000 + index as u64;
    }
    known.figures[Figure::MemoryReserved as usize] = 1 << 30;
    (known.memory_used, known.known) = (2 << 30, KNOWN_MEMORY_USED);
    let mut inventory = Inventory::new(vec![known, device(2)]);
    inventory.header.cuda_version = 13000;
    set_text(&mut inventory.header.driver, "580.159.03");
    set_text(&mut inventory.header.nvml, "13.580.159.03");
    inventory
}

#[test]
fn every_figure_arrives_under_its_function() {
    let server = Server::start(inventory());
    let Some(output) = support::script("ask.py", &server.address, &[]) else { return };
    let lines = support::lines(&output);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let of = |figure: Figure| 1000 + figure as u64;
    let two = |name: &str, a, b| format!("{name}: {} {}", of(a), of(b));
    let one = |name: &str, figure| format!("DeviceGet{name}: {}", of(figure));
    let clock =
        |name: &str, kind: u64, first: Figure| format!("DeviceGet{name} {kind}: {}", of(first) + kind);
    let uuid = "GPU-01010101-0101-0101-0101-010101010101";
    let mut expected: Vec<String> = [
        "SystemGetDriverVersion: 580.159.03",
        "SystemGetNVMLVersion: 13.580.159.03",
        "SystemGetCudaDriverVersion: 13000",
        "DeviceGetCount: 2",
        "UnitGetCount: 0",
        "DeviceGetIndex: 0",
        "DeviceGetName: A GPU",
        &format!("DeviceGetUUID: {uuid}"),
        "DeviceGetSerial: 16",
        "DeviceGetVbiosVersion: 96.00",
        "DeviceGetBoardPartNumber: 900-2",
        &format!(
            "DeviceGetPciInfo: 0001:3B:00.0 1 59 0 {} {} 00000001:3B:00.0",
            of(Figure::PciDeviceId),
            of(Figure::PciSubsystemId)
        ),
        "DeviceGetCudaComputeCapability: 9 0",
        &one("MinorNumber", Figure::MinorNumber),
        &one("Brand", Figure::Brand),
        &one("PersistenceMode", Figure::PersistenceMode),
        &one("DisplayActive", Figure::DisplayActive),
        &one("ComputeMode", Figure::ComputeMode),
        &one("PerformanceState", Figure::PerformanceState),
        &one("FanSpeed", Figure::FanSpeed),
        &one("PowerUsage", Figure::PowerUsage),
        &one("EnforcedPowerLimit", Figure::PowerLimitEnforced),
        &two("DeviceGetPowerManagementLimitConstraints", Figure::PowerLimitLeast, Figure::PowerLimitMost),
        &one("TotalEnergyConsumption", Figure::Energy),
        &format!("DeviceGetMemoryInfo: {} {} {}", 100u64 << 30, 97u64 << 30, 3u64 << 30),
        &format!(
            "DeviceGetBAR1MemoryInfo: {} {} {}",
            of(Figure::Bar1Total),
            of(Figure::Bar1Free),
            of(Figure::Bar1Used)
        ),
        &two("DeviceGetUtilizationRates", Figure::UtilisationGpu, Figure::UtilisationMemory),
        &two("DeviceGetEncoderUtilization", Figure::UtilisationEncoder, Figure::EncoderPeriod),
        &two("DeviceGetEccMode", Figure::EccMode, Figure::EccModePending),
        &two("DeviceGetMigMode", Figure::MigMode, Figure::MigModePending),
        &format!(
            "{} {} {}",
            two("DeviceGetRemappedRows", Figure::RowsCorrected, Figure::RowsUncorrected),
            of(Figure::RowsPending),
            of(Figure::RowsFailed)
        ),
        &one("NumGpuCores", Figure::Cores),
        &one("Architecture", Figure::Architecture),
        &one("MaxPcieLinkGeneration", Figure::PcieGenerationMost),
        "DeviceGetComputeRunningProcesses: ",
        "DeviceGetGraphicsRunningProcesses: ",
        "DeviceGetMPSComputeRunningProcesses: ",
        "DeviceGetAccountingMode: 0",
        &format!(
            "DeviceGetMemoryInfo 33554472: 33554472 {} {} {} {}",
            100u64 << 30,
            1u64 << 30,
            97u64 << 30,
            2u64 << 30
        ),
        &format!("DeviceGetTotalEccErrors 1 0: {}", of(Figure::EccUncorrectedVolatile)),
    ]
    .map(str::to_owned)
    .into();
    for (name, first) in [
        ("ClockInfo", Figure::ClockGraphics),
        ("MaxClockInfo", Figure::ClockGraphicsMost),
        ("TemperatureThreshold", Figure::ThresholdShutdown),
    ] {
        expected.extend((0..4).map(|kind| clock(name, kind, first)));
    }
    expected.push(format!("DeviceGetTemperature 0: {}", of(Figure::Temperature)));
    expected.push("DeviceGetNvLinkState 0: error 3".into());
    expected.push("DeviceGetHandleByUUID: ".into());
    expected.push(format!("Fields: 83=0/{} 186=0/{} 91=3/0", of(Figure::Energy), of(Figure::PowerInstant)));
    for (line, expected) in lines.iter().zip(&expected) {
        if expected.ends_with("HandleByUUID: ") {
            assert!(line.starts_with(expected.as_str()) && !line.contains("error"), "{line}");
        } else {
            assert_eq!(line, expected);
        }
    }
    // Of the second device next to nothing is known, and nothing is made up.
    let second = &lines[expected.len()..];
    let answered = |name: &str| {
        let start = format!("DeviceGet{name}: ");
        second.iter().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("no {name}"))
    };
    assert_eq!(answered("Index"), "1");
    assert_eq!(answered("CudaComputeCapability"), "9 0");
    assert_eq!(answered("PciInfo"), "0001:3C:00.0 1 60 0 0 0 00000001:3C:00.0");
    assert_eq!(answered("EccMode"), "0 0");
    let unknown = "Serial VbiosVersion MinorNumber PersistenceMode FanSpeed PowerUsage UtilizationRates MigMode \
                   RemappedRows BAR1MemoryInfo TotalEnergyConsumption NumGpuCores";
    for name in unknown.split_whitespace() {
        assert_eq!(answered(name), "error 3", "{name}");
    }
    assert_eq!(second.last().unwrap(), "Fields: 83=3/0 186=3/0 91=3/0");
}

#[test]
fn without_a_server_there_is_no_driver_and_one_line_says_why() {
    let code = "import pynvml as n\n\
                for _ in range(3):\n\
                \ttry: n.nvmlInit()\n\
                \texcept n.NVMLError as e: print(e.value)\n";
    let run = |more: &[(&str, &str)]| {
        let output = support::python(&["-c", code])?.envs(more.iter().copied()).output().unwrap();
        assert_eq!(support::lines(&output), ["9", "9", "9"]);
        Some(String::from_utf8(output.stderr).unwrap())
    };
    let Some(none) = run(&[]) else { return };
    assert!(none.lines().count() == 1 && none.contains("FUSEWIRE_SERVER"), "{none}");
    let nobody = run(&[("FUSEWIRE_SERVER", "127.0.0.1:1")]).unwrap();
    assert!(nobody.lines().count() == 1 && nobody.contains("127.0.0.1:1"), "{nobody}");
    assert_eq!(run(&[("FUSEWIRE_SERVER", "127.0.0.1:1"), ("FUSEWIRE_QUIET", "1")]).unwrap(), "");
}

#[test]
fn threads_and_forked_children_share_few_queries() {
    let mut inventory = inventory();
    inventory.devices[0].set_figure(Figure::Temperature, 40);
    let server = Server::start(inventory);
    let Some(output) = support::script("busy.py", &server.address, &[]) else { return };
    support::lines(&output);
    // A second at one query in 200 ms, one or two for each of five children, and the first.
    let asked = server.asked.load(Relaxed);
    assert!((6..=24).contains(&asked), "{asked} queries");
}

#[test]
fn figures_are_read_anew() {
    let server = Server::start(inventory());
    let code = "import pynvml as n, sys\n\
                n.nvmlInit(); d = n.nvmlDeviceGetHandleByIndex(1)\n\
                for line in sys.stdin: print(n.nvmlDeviceGetTemperature(d, 0), flush=True)\n";
    let Some(mut command) = support::python(&["-u", "-c", code]) else { return };
    command.env("FUSEWIRE_SERVER", &server.address);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut to, mut from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    for temperature in [41, 42] {
        {
            let device = &mut server.inventory.lock().unwrap().devices[1];
            (device.temperature, device.known) = (temperature, KNOWN_TEMPERATURE);
        }
        std::thread::sleep(Duration::from_millis(250));
        to.write_all(b"\n").unwrap();
        let mut line = String::new();
        from.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), temperature.to_string());
    }
    drop(to);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_server_that_goes_away_is_a_lost_gpu() {
    // A listener that answers once: when the script has what it needs, nobody is there any more.
    let server = Server::start(inventory());
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = proxy.local_addr().unwrap().to_string();
    let behind = server.address.clone();
    let once = std::thread::spawn(move || {
        let (client, _) = proxy.accept().unwrap();
        let upstream = std::net::TcpStream::connect(behind).unwrap();
        let (mut a, mut b) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut a, &mut b));
        std::io::copy(&mut &upstream, &mut &client).unwrap();
    });
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lost.py");
    let Some(mut command) = support::python(&[path]) else { return };
    command.env("FUSEWIRE_SERVER", address).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    once.join().unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn functions_that_are_not_carried_say_so_when_asked_to() {
    let server = Server::start(inventory());
    let run = |log: &str| {
        let code = "import pynvml as n\nn.nvmlInit()\n\
                    for _ in range(3):\n\ttry: n.nvmlSystemGetNvlinkBwMode()\n\texcept n.NVMLError as e: print(e.value)\n";
        let mut command = support::python(&["-c", code])?;
        let output =
            command.env("FUSEWIRE_SERVER", &server.address).env("FUSEWIRE_LOG", log).output().unwrap();
        assert_eq!(support::lines(&output), ["3", "3", "3"]);
        Some(String::from_utf8(output.stderr).unwrap())
    };
    let Some(silent) = run("error") else { return };
    assert_eq!(silent, "");
    let said = run("info").unwrap();
    assert!(said.lines().count() == 1 && said.contains("nvmlSystemGetNvlinkBwMode"), "{said}");
}

/// The whole way: the daemon, its worker, and the software GPU, where all three have been built.
#[test]
fn the_daemon_describes_the_software_gpu() {
    let built = std::env::current_exe().unwrap();
    let built = built.ancestors().nth(2).unwrap();
    let (command, driver) = (built.join("fusewire"), built.join("libsoftgpu.so"));
    if !command.exists() || !driver.exists() {
        eprintln!(
            "SKIPPED: {} and {} are not both there: build them first",
            command.display(),
            driver.display()
        );
        return;
    }
    let mut daemon = std::process::Command::new(command)
        .args([OsStr::new("serve"), "--listen".as_ref(), "127.0.0.1:0".as_ref(), "--driver".as_ref()])
        .arg(driver)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(daemon.stderr.take().unwrap()).lines();
    let address = log.by_ref().find_map(|line| Some(line.ok()?.split_once("listening on ")?.1.to_owned()));
    std::thread::spawn(move || log.for_each(drop));
    let began = Instant::now();
    let output = address.as_ref().map(|address| support::script("ask.py", address, &[]));
    let took = began.elapsed();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let Some(output) = output.expect("the daemon does not listen") else { return };
    let lines = support::lines(&output);
    let has = |wanted: &str| assert!(lines.iter().any(|line| line == wanted), "no {wanted:?} in {lines:#?}");
    has("SystemGetCudaDriverVersion: 13000");
    has("DeviceGetCudaComputeCapability: 9 0");
    has("DeviceGetUtilizationRates: error 3");
    has("DeviceGetEccMode: 1 1");
    assert!(lines.iter().any(|line| line.starts_with("DeviceGetUUID: GPU-")), "{lines:#?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}
