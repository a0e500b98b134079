//! Load an HTTP server from the command line: `cargo run --release --example http_load -- 127.0.0.1:8000 [key=value]...`
//!
//! Keys: `path=/` (again for more targets, each with the `weight=` and `body=` that follow it), `connections=64`,
//! `pipeline=1`, `rate=0` (requests a second; 0 is a closed loop), `seconds=3`, `warm_up=0`, `timeout=10`.

use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use penstock::load::http::{HttpPlan, LoadReport, Pace, Target, run};

fn main() -> ExitCode {
    let outcome = parse(std::env::args().skip(1)).and_then(|plan| run(&plan).map_err(|error| error.to_string()));
    match outcome {
        Ok(report) => {
            print(&report);
            ExitCode::from(u8::from(report.errors() > 0))
        }
        Err(problem) => {
            eprintln!("http_load: {problem}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<HttpPlan, String> {
    let address = arguments.next().ok_or("expected ADDRESS:PORT [key=value]...")?;
    let mut plan = HttpPlan::get(value("address", &address)?, "/");
    plan.targets.clear();
    for argument in arguments {
        let (key, text) = argument.split_once('=').ok_or(format!("expected key=value, got {argument}"))?;
        match key {
            "path" => plan.targets.push(Target { path: text.to_owned(), weight: 1, body_bytes: 0 }),
            "weight" => last(&mut plan.targets).weight = value(key, text)?,
            "body" => last(&mut plan.targets).body_bytes = value(key, text)?,
            "connections" => plan.connections = value(key, text)?,
            "pipeline" => plan.pipeline = value(key, text)?,
            "rate" => {
                plan.pace = Some(value(key, text)?).filter(|rate| *rate > 0.0).map_or(Pace::Closed, Pace::PerSecond)
            }
            "seconds" => plan.duration = seconds(key, text)?,
            "warm_up" => plan.warm_up = seconds(key, text)?,
            "timeout" => plan.answer_timeout = seconds(key, text)?,
            _ => return Err(format!("unknown key {key}")),
        }
    }
    last(&mut plan.targets);
    Ok(plan)
}

/// The target that the present key speaks of; `/` if none was named.
fn last(targets: &mut Vec<Target>) -> &mut Target {
    if targets.is_empty() {
        targets.push(Target { path: "/".to_owned(), weight: 1, body_bytes: 0 });
    }
    targets.last_mut().expect("there is one by now")
}

fn value<T: FromStr>(key: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{key} cannot be {text:?}"))
}

fn seconds(key: &str, text: &str) -> Result<Duration, String> {
    Duration::try_from_secs_f64(value(key, text)?).map_err(|_| format!("{key} cannot be {text} s"))
}

fn print(report: &LoadReport) {
    println!("{:.0} answers a second, {} errors, {} reconnects", report.rate(), report.errors(), report.reconnects);
    for target in &report.targets {
        let percentile = |percent| target.latencies.percentile(percent).as_secs_f64() * 1e6;
        println!(
            "{}: {} answers on {} connections ({} to {} each); us p50 {:.0} p90 {:.0} p99 {:.0} p99.9 {:.0} max {:.0}",
            target.name,
            target.answers,
            target.connections,
            target.fewest_on_one,
            target.most_on_one,
            percentile(50.0),
            percentile(90.0),
            percentile(99.0),
            percentile(99.9),
            target.latencies.max().as_secs_f64() * 1e6,
        );
        if let Some(first) = &target.errors.first {
            println!("{}: {} errors, the first: {first}", target.name, target.errors.total());
        }
    }
}
