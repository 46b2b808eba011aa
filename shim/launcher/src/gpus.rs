//! `fusewire gpus`: what a server has.

use std::process::ExitCode;

use fusewire_wire::inventory::{
    DeviceInfo, Inventory, KNOWN_MEMORY_USED, KNOWN_POWER_DRAW, KNOWN_TEMPERATURE, KNOWN_UTILISATION,
};
use serde_json::{Value, json};

use crate::fail;
use crate::reach::Reach;

/// List a server's GPUs.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fusewire gpus --server gpu1:7543
  fusewire gpus --json | jq '.gpus[].name'")]
pub(crate) struct Args {
    #[command(flatten)]
    reach: Reach,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// Prints the list.
pub(crate) fn gpus(args: &Args) -> ExitCode {
    let asked = args.reach.config().and_then(|config| Ok((fusewire_connect::query_server(&config)?, config)));
    let (inventory, config) = match asked {
        Ok(asked) => asked,
        Err(error) => return fail(&error),
    };
    if args.json {
        println!("{:#}", as_json(&inventory, &config.server));
    } else {
        print!("{}", table(&inventory));
    }
    ExitCode::SUCCESS
}

/// Figures that are not known are null.
pub(crate) fn as_json(inventory: &Inventory, server: &str) -> Value {
    let header = &inventory.header;
    let gpus: Vec<Value> =
        inventory.devices.iter().enumerate().map(|(index, gpu)| gpu_json(index, gpu)).collect();
    json!({
        "server": server,
        "version": header.server_text(),
        "driver": known_text(header.driver_text()),
        "cuda": cuda(header.cuda_version),
        "sessions": header.sessions,
        "max_sessions": if header.max_sessions == 0 { Value::Null } else { header.max_sessions.into() },
        "gpus": gpus,
    })
}

fn gpu_json(index: usize, gpu: &DeviceInfo) -> Value {
    let known = |bits, value: u64| if gpu.knows(bits) { json!(value) } else { Value::Null };
    json!({
        "index": index,
        "name": gpu.name_text(),
        "uuid": gpu.uuid_text(),
        "pci": gpu.pci_text(),
        "compute_capability": format!("{}.{}", gpu.compute_major, gpu.compute_minor),
        "multiprocessors": gpu.multiprocessors,
        "memory_total": gpu.memory_total,
        "memory_used": known(KNOWN_MEMORY_USED, gpu.memory_used),
        "utilisation": known(KNOWN_UTILISATION, gpu.utilisation_gpu.into()),
        "temperature": known(KNOWN_TEMPERATURE, gpu.temperature.into()),
        "power_milliwatts": known(KNOWN_POWER_DRAW, gpu.power_draw.into()),
    })
}

fn table(inventory: &Inventory) -> String {
    let header = &inventory.header;
    let driver = match header.driver_text() {
        text if text.is_empty() => String::new(),
        text => format!("driver {text}, "),
    };
    let most = if header.max_sessions == 0 { String::new() } else { format!(" of {}", header.max_sessions) };
    let mut out = format!(
        "fusewire {}, {driver}CUDA {}, {}{most} sessions\n",
        header.server_text(),
        cuda(header.cuda_version),
        header.sessions
    );
    let width =
        inventory.devices.iter().map(|gpu| gpu.name_text().chars().count()).max().unwrap_or(0).clamp(6, 40);
    out += &format!(
        "gpu  {:width$}  pci           cc    {:>20}  {:>5}  {:>5}  {:>7}\n",
        "name", "memory", "busy", "temp", "power"
    );
    for (index, gpu) in inventory.devices.iter().enumerate() {
        let known = |bits, text: String| if gpu.knows(bits) { text } else { "-".to_owned() };
        let mib = |bytes: u64| bytes >> 20;
        let used = known(KNOWN_MEMORY_USED, mib(gpu.memory_used).to_string());
        out += &format!(
            "{index:<3}  {:width$}  {:<12}  {:<4}  {:>20}  {:>5}  {:>5}  {:>7}\n",
            gpu.name_text(),
            gpu.pci_text(),
            format!("{}.{}", gpu.compute_major, gpu.compute_minor),
            format!("{used} / {} MiB", mib(gpu.memory_total)),
            known(KNOWN_UTILISATION, format!("{} %", gpu.utilisation_gpu)),
            known(KNOWN_TEMPERATURE, format!("{} C", gpu.temperature)),
            known(KNOWN_POWER_DRAW, format!("{} W", gpu.power_draw / 1000)),
        );
    }
    out
}

fn cuda(version: u32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn known_text(text: String) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusewire_wire::inventory::set_text;
    use zerocopy::FromZeros;

    #[test]
    fn what_is_not_known_is_not_shown_as_zero() {
        let mut gpu = DeviceInfo::new_zeroed();
        set_text(&mut gpu.name, "NVIDIA H200");
        gpu.memory_total = 141 << 30;
        gpu.known = KNOWN_TEMPERATURE;
        let mut inventory = Inventory::new(vec![gpu]);
        inventory.header.cuda_version = 13010;
        let value = as_json(&inventory, "gpu1:7543");
        assert_eq!(value["gpus"][0]["temperature"], 0);
        assert_eq!(value["gpus"][0]["power_milliwatts"], Value::Null);
        assert_eq!((&value["cuda"], &value["driver"]), (&json!("13.1"), &Value::Null));
        let table = table(&inventory);
        assert!(table.contains("- / 144384 MiB") && table.contains("0 C"), "{table}");
    }
}
