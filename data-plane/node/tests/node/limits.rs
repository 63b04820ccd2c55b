//! What a node does when there is no more room, and what it says when it cannot start.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::process::{Command, Stdio};
use std::time::Duration;

use millrace_data::{Config, StartError, TlsConfig, start};
use millrace_protocol::Code;
use millrace_protocol::ws::Opcode;

use crate::support::{Client, Control, Got, config, dial_tcp, door, link, metric, node, parse_answer, stop, until};

#[test]
fn one_connection_too_many_is_refused_with_503() {
    let control = Control::new();
    let node = node(&control, Config { connections_max: Some(4), ..config() });
    let token = control.token("ann");
    let mut clients: Vec<Client> = (0..4).map(|_| Client::connect(door(&node), &token)).collect();
    let mut refused = dial_tcp(node.client_address);
    let mut answer = Vec::new();
    refused.read_to_end(&mut answer).expect("an answer without a question");
    let (status, text) = parse_answer(&answer);
    assert_eq!(status, 503, "{text}");
    drop(refused);
    assert_eq!(metric(&node, "millrace_data_connections"), 4.0);

    let mut leaving = clients.pop().expect("four");
    leaving.send_ws(Opcode::Close, b"");
    leaving.closed();
    until("its place is free", || metric(&node, "millrace_data_connections") == 3.0);
    Client::connect(door(&node), &token);
    stop(node);
}

/// A crowd above the limit: all get an end, most of them an answer, and the node goes on.
#[test]
fn a_crowd_at_the_door_does_not_hurt() {
    let control = Control::new();
    let node = node(&control, Config { connections_max: Some(2), ..config() });
    let token = control.token("ann");
    let mut inside: Vec<Client> = (0..2).map(|_| Client::connect(door(&node), &token)).collect();
    let crowd: Vec<_> = (0..300).map(|_| dial_tcp(node.client_address)).collect();
    for mut stream in crowd {
        let mut answer = Vec::new();
        // A reset is an end too: more are refused at once than can be told so.
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 503 "));
    }
    assert_eq!(metric(&node, "millrace_data_connections_refused_full_total"), 300.0);
    for client in &mut inside {
        client.send_ws(Opcode::Ping, b"still here");
        assert_eq!(client.next(), Got::Pong(b"still here".to_vec()));
    }
    stop(node);
}

#[test]
fn a_start_that_cannot_be_says_what_to_do() {
    let control = Control::new();
    let node = node(&control, config());
    let check = |config: Config, expect: &str| {
        let error = start(config, link(&control)).expect_err("a refusal");
        assert!(error.to_string().contains(expect), "{error}");
    };
    check(Config { client_address: node.client_address, ..config() }, "stop what listens there");
    check(Config { admin_address: node.admin_address, ..config() }, "admin address");
    check(Config { client_address: ([192, 0, 2, 1], 0).into(), ..config() }, "choose one of this machine");
    check(Config { connections_max: Some(u32::MAX), ..config() }, "ulimit");
    check(Config { client_tls_address: node.client_tls_address, ..config() }, "stop what listens there");
    check(Config { tls: None, ..config() }, "needs a certificate");
    check(Config { tls: Some(TlsConfig::new("/nowhere.pem", "/nowhere.key")), ..config() }, "certificate");
    let error = start(Config { ring_slots: 1, ..config() }, link(&control)).expect_err("a refusal");
    assert!(matches!(error, StartError::Limits(_)), "{error}");
    stop(node);
}

/// Strangers with the beginnings of large frames do not eat the node; whoever has shown a whole one has room of their own.
#[test]
fn unfinished_frames_of_all_strangers_are_bounded() {
    let control = Control::new();
    // One shard, so that all share one room: 512 KiB for strangers.
    let config = Config { shards: NonZeroU16::new(1), unfinished_bytes_max: 1 << 20, ..config() };
    let node = node(&control, config);
    let mut inside = Client::connect(door(&node), &control.token("ann"));
    let mut begun = vec![0x82, 0xff];
    begun.extend_from_slice(&(200_u64 << 10).to_be_bytes());
    begun.extend_from_slice(&[1; 4 + (150 << 10)]);
    let mut strangers: Vec<Client> = (0..8)
        .map(|_| {
            let mut client = Client::open(door(&node));
            client.send_raw(&begun);
            client
        })
        .collect();
    until("some are sent away", || metric(&node, "millrace_data_input_room_ends_total") >= 5.0);
    assert!(metric(&node, "millrace_data_unfinished_bytes") <= f64::from(512 << 10));
    inside.send_raw(&begun);
    until("its beginning is kept", || metric(&node, "millrace_data_unfinished_bytes") >= f64::from(300 << 10));
    inside.send_raw(&[1; 50 << 10]);
    assert_eq!(inside.closed_with(), Some(Code::BadFrame), "a whole frame of nonsense");
    let away = strangers.iter_mut().filter_map(|client| client.closed_within(Duration::from_millis(10)));
    assert!(away.filter(|&code| code == 1013).count() >= 5);
    drop(strangers);
    until("nothing is kept", || metric(&node, "millrace_data_unfinished_bytes") == 0.0);
    stop(node);
}

const TOLD: &str = "MILLRACE_TEST_NODE_WITHOUT_DESCRIPTORS";

/// Without descriptors a node lets newcomers wait, without spinning, and goes on with those it has. The node is in a process
/// of its own, because the limit is the process's.
#[test]
fn a_node_without_descriptors_lets_newcomers_wait() {
    if std::env::var(TOLD).is_ok() {
        return without_descriptors();
    }
    let mut process = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "limits::a_node_without_descriptors_lets_newcomers_wait", "--nocapture"])
        .env(TOLD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start");
    let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
    let mut told = |what: &str| loop {
        let line = lines.next().expect("the process goes on").expect("text");
        if let Some(told) = line.strip_prefix(what) {
            return told.trim().to_owned();
        }
    };
    let address: SocketAddr = told("address").parse().expect("an address");
    let token = told("token");
    // Twice as many as there are descriptors for: the first are in, the others wait in the kernel.
    let mut inside: Vec<Client> = (0..4).map(|_| Client::connect(address, &token)).collect();
    let mut crowd: Vec<_> = (0..2 * SPARE).map(|_| dial_tcp(address)).collect();
    let mut stdin = process.stdin.take().expect("piped");
    writeln!(stdin, "begin").expect("write");
    told("begun");
    // The last one hears nothing, for some pauses.
    let last = crowd.last_mut().expect("a crowd");
    last.set_read_timeout(Some(Duration::from_millis(500))).expect("read timeout");
    assert_eq!(last.read(&mut [0; 1]).expect_err("silence").kind(), ErrorKind::WouldBlock);
    writeln!(stdin, "end").expect("write");
    let spent: u64 = told("processor_ms").parse().expect("a number");
    assert!(spent < 250, "{spent} ms of processor in 500 ms of waiting for descriptors");
    for client in &mut inside {
        client.send_ws(Opcode::Ping, b"still here");
        assert_eq!(client.next(), Got::Pong(b"still here".to_vec()));
    }
    crowd.clear();
    // Room again: the next one is let in when the pause is over.
    drop(Client::connect(address, &token));
    drop(inside);
    writeln!(stdin, "stop").expect("write");
    assert!(process.wait().expect("the end").success());
}

/// Descriptors left to the node when it has started.
const SPARE: usize = 24;

fn without_descriptors() {
    let control = Control::new();
    let node = node(&control, config());
    // An answer of the admin port needs descriptors too, so the counter is read at the end.
    let open = std::fs::read_dir("/proc/self/fd").expect("proc").count();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let current = Some(u64::try_from(open + SPARE).expect("small"));
    rustix::process::setrlimit(rustix::process::Resource::Nofile, rustix::process::Rlimit { current, ..limit })
        .expect("lower");
    println!("\naddress {}\ntoken {}", door(&node), control.token("ann"));
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("the test goes on");
    let begun = processor_ms();
    println!("begun");
    std::io::stdin().read_line(&mut line).expect("the test goes on");
    println!("processor_ms {}", processor_ms() - begun);
    std::io::stdin().read_line(&mut line).expect("the test goes on");
    assert!(metric(&node, "millrace_data_accept_pauses_total") > 0.0);
    stop(node);
}

/// User and system time of this process. There is no descriptor to read it from a file.
fn processor_ms() -> i64 {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    spent.tv_sec * 1000 + spent.tv_nsec / 1_000_000
}
