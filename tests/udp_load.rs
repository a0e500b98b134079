//! The UDP load against small servers, among them ones that lose, and one that is not there.

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use penstock::load::LoadError;
use penstock::load::udp::{UdpPlan, UdpReport, run_until};

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

fn plan(address: SocketAddr) -> UdpPlan {
    UdpPlan {
        address,
        flows: 4,
        window: 8,
        datagram_bytes: 64,
        gso: false,
        warm_up: Duration::ZERO,
        duration: Duration::from_millis(200),
        answer_timeout: Duration::from_millis(50),
    }
}

fn run(plan: &UdpPlan) -> UdpReport {
    run_until(plan, &mut || false).unwrap()
}

#[test]
fn every_echo_is_counted_and_timed_with_gso_and_without() {
    for gso in [false, true] {
        let address = server(|_, datagram| vec![datagram.to_vec()]);
        let report = run(&UdpPlan { gso, answer_timeout: Duration::from_secs(10), ..plan(address) });
        assert!(report.answers > 0 && report.rate() > 0.0, "{report:?}");
        assert_eq!((report.lost, report.wrong), (0, 0));
        assert_eq!(report.latencies.count(), report.answers);
    }
}

#[test]
fn what_is_lost_is_counted_and_the_flow_goes_on() {
    let address = server(|number, datagram| if number % 50 == 7 { vec![] } else { vec![datagram.to_vec()] });
    let report = run(&plan(address));
    assert!(report.lost > 0 && report.answers > report.lost, "{report:?}");
    assert_eq!(report.wrong, 0);
}

#[test]
fn what_was_not_sent_is_wrong_and_not_an_answer() {
    let address = server(|_, datagram| vec![datagram.to_vec(), datagram[..20].to_vec(), b"short".to_vec()]);
    let report = run(&UdpPlan { window: 1, flows: 1, ..plan(address) });
    assert!(report.wrong > 0 && report.answers > 0, "{report:?}");
}

#[test]
fn a_server_that_is_not_there_is_told_at_once() {
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = run_until(&plan(nobody), &mut || false).unwrap_err();
    assert!(matches!(error, LoadError::ServerGone { .. }), "{error}");
}

#[test]
fn an_impossible_plan_is_refused_with_what_was_expected() {
    let address = "127.0.0.1:9".parse().unwrap();
    for (wrong, text) in [
        (UdpPlan { flows: 0, ..plan(address) }, "flows is 0, expected 1 to 10000"),
        (UdpPlan { window: 0, ..plan(address) }, "window is 0, expected 1 to 1024"),
        (UdpPlan { datagram_bytes: 15, ..plan(address) }, "datagram_bytes is 15, expected 16 to 65000"),
        (UdpPlan { duration: Duration::ZERO, ..plan(address) }, "duration and answer_timeout"),
    ] {
        let error = run_until(&wrong, &mut || false).unwrap_err();
        assert!(matches!(error, LoadError::Plan(_)) && error.to_string().contains(text), "{error}");
    }
}

#[test]
fn a_run_stops_when_it_is_asked_to() {
    let address = server(|_, datagram| vec![datagram.to_vec()]);
    let error = run_until(&UdpPlan { duration: Duration::from_secs(60), ..plan(address) }, &mut || true).unwrap_err();
    assert!(matches!(error, LoadError::Interrupted));
}
