//! The UDP load against small servers, among them ones that lose, and one that is not there.

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use penstock::load::LoadError;
use penstock::load::udp::{DatagramPlan, ErrorKind, LoadReport, Pace, Schedule, run_until};

/// A server that answers each datagram with what `answer` makes of it. Its thread ends with the test's process.
fn server(mut answer: impl FnMut(u64, &[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut bytes = [0; 65_536];
        for number in 0.. {
            let Ok((length, peer)) = socket.recv_from(&mut bytes) else { return };
            for each in answer(number, &bytes[..length]) {
                let _ = socket.send_to(&each, peer);
            }
        }
    });
    address
}

fn plan(address: SocketAddr) -> DatagramPlan {
    let schedule = Schedule {
        address,
        connections: 4,
        pipeline: 8,
        pace: Pace::Closed,
        sleeps: false,
        warm_up: Duration::ZERO,
        duration: Duration::from_millis(200),
        answer_timeout: Duration::from_secs(10),
    };
    DatagramPlan { schedule, bytes: 64, gso: false }
}

fn run(plan: &DatagramPlan) -> LoadReport {
    run_until(plan, &mut |_| false).unwrap()
}

fn errors(report: &LoadReport, kind: ErrorKind) -> u64 {
    report.targets[0].errors.count(kind)
}

#[test]
fn every_echo_is_counted_and_timed_with_gso_and_without() {
    for gso in [false, true] {
        let address = server(|_, datagram| vec![datagram.to_vec()]);
        let report = run(&DatagramPlan { gso, ..plan(address) });
        assert!(report.answers() > 0 && report.rate() > 0.0);
        assert_eq!(report.errors(), 0, "{:?}", report.targets[0].errors);
        assert_eq!(report.latencies().count(), report.answers());
    }
}

#[test]
fn an_open_loop_sends_what_is_due_and_no_more() {
    let address = server(|_, datagram| vec![datagram.to_vec()]);
    let mut plan = plan(address);
    plan.schedule.pace = Pace::PerSecond(2_000.0);
    let report = run(&plan);
    // A busy machine may come round too late for the last ones.
    assert!((1..=400).contains(&report.answers()), "{} answers", report.answers());
    assert_eq!(report.errors(), 0, "{:?}", report.targets[0].errors);
}

#[test]
fn what_is_lost_is_counted_and_the_load_goes_on() {
    let address = server(|number, datagram| if number % 50 == 7 { vec![] } else { vec![datagram.to_vec()] });
    let mut plan = plan(address);
    plan.schedule.answer_timeout = Duration::from_millis(50);
    let report = run(&plan);
    let lost = errors(&report, ErrorKind::TimedOut);
    assert!(lost > 0 && report.answers() > lost, "{lost} lost, {} answers", report.answers());
    assert_eq!(errors(&report, ErrorKind::Malformed), 0);
}

#[test]
fn what_was_not_sent_is_no_answer() {
    let address = server(|_, datagram| vec![datagram.to_vec(), datagram[..20].to_vec(), datagram.to_vec()]);
    let report = run(&plan(address));
    assert!(report.answers() > 0);
    let told = &report.targets[0].errors;
    assert!(told.count(ErrorKind::Malformed) > 0 && told.count(ErrorKind::Repeated) > 0, "{told:?}");
}

#[test]
fn a_server_that_is_not_there_is_told_at_once() {
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = run_until(&plan(nobody), &mut |_| false).unwrap_err();
    assert!(matches!(error, LoadError::Connect { .. }), "{error}");
}

#[test]
fn an_impossible_plan_is_refused_with_what_was_expected() {
    let good = plan("127.0.0.1:9".parse().unwrap());
    let with = |change: &dyn Fn(&mut DatagramPlan)| {
        let mut plan = good.clone();
        change(&mut plan);
        plan
    };
    for (wrong, text) in [
        (with(&|plan| plan.schedule.connections = 0), "0 connections; expected 1 to 65536"),
        (with(&|plan| plan.schedule.pipeline = 0), "pipeline of 0; expected 1 to 1024"),
        (with(&|plan| plan.bytes = 7), "datagrams of 7 bytes; expected 8 to 65507"),
        (with(&|plan| plan.schedule.duration = Duration::ZERO), "longer than 0"),
    ] {
        let error = run_until(&wrong, &mut |_| false).unwrap_err();
        assert!(matches!(error, LoadError::Plan(_)) && error.to_string().contains(text), "{error}");
    }
}

#[test]
fn a_run_stops_when_it_is_asked_to() {
    let address = server(|_, datagram| vec![datagram.to_vec()]);
    let mut plan = plan(address);
    plan.schedule.duration = Duration::from_secs(60);
    let error = run_until(&plan, &mut |_| true).unwrap_err();
    assert!(matches!(error, LoadError::Interrupted));
}
