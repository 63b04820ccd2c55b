//! An endpoint of webhooks: takes requests on a real socket, answers as it is told, remembers everything.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// What an endpoint answers.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Status(u16),
    /// With a header.
    With(u16, String),
    /// Says nothing until the test lets go.
    Hang,
    /// 200, and more of a body than anybody wants.
    Huge,
    /// Interim answers without end.
    Interim,
    /// 200 at once, and its body only when the test lets go.
    Late,
    /// Ends the connection.
    Close,
}

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) target: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) text: String,
}

impl Received {
    pub(crate) fn body(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    pub(crate) fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }

    /// Its type.
    pub(crate) fn kind(&self) -> String {
        self.body()["type"].as_str().unwrap().to_owned()
    }

    /// Whether one of its signatures was made with this secret.
    pub(crate) fn is_signed_with(&self, secret: &str) -> bool {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let signed = format!("{}.{}.{}", self.id(), self.headers["webhook-timestamp"], self.text);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), signed.as_bytes());
        let expect = format!("v1,{}", STANDARD.encode(tag));
        self.headers["webhook-signature"].split(' ').any(|signature| signature == expect)
    }
}

type Judge = dyn Fn(&Received) -> Reply + Send + Sync;

struct Shared {
    received: Mutex<Vec<Received>>,
    judge: Mutex<Arc<Judge>>,
    /// Whoever hangs may go on.
    released: (Mutex<bool>, Condvar),
    connections: Mutex<usize>,
}

pub(crate) struct Receiver {
    shared: Arc<Shared>,
    port: u16,
}

impl Receiver {
    pub(crate) fn new(judge: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            received: Mutex::default(),
            judge: Mutex::new(Arc::new(judge)),
            released: Default::default(),
            connections: Mutex::default(),
        });
        let accepting = shared.clone();
        // Ends with the process: a listener that nobody connects to costs nothing.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = accepting.clone();
                *shared.connections.lock().unwrap() += 1;
                // A connection that breaks is what some tests are about.
                std::thread::spawn(move || drop(serve(stream.unwrap(), &shared)));
            }
        });
        Self { shared, port }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn answer(&self, judge: impl Fn(&Received) -> Reply + Send + Sync + 'static) {
        *self.shared.judge.lock().unwrap() = Arc::new(judge);
    }

    pub(crate) fn release(&self) {
        *self.shared.released.0.lock().unwrap() = true;
        self.shared.released.1.notify_all();
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.shared.received.lock().unwrap().len()
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        *self.shared.connections.lock().unwrap()
    }
}

impl Shared {
    fn wait(&self) {
        let mut released = self.released.0.lock().unwrap();
        while !*released {
            released = self.released.1.wait(released).unwrap();
        }
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let Some(received) = read(&mut reader)? else { return Ok(()) };
        shared.received.lock().unwrap().push(received.clone());
        let judge = shared.judge.lock().unwrap().clone();
        match judge(&received) {
            Reply::Status(204) => write!(stream, "HTTP/1.1 204 x\r\n\r\n")?,
            Reply::Status(status) => write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: 2\r\n\r\nok")?,
            Reply::With(status, header) => {
                write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: 0\r\n{header}\r\n\r\n")?;
            }
            Reply::Hang => {
                shared.wait();
                return Ok(());
            }
            Reply::Late => {
                write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")?;
                shared.wait();
                write!(stream, "ok")?;
            }
            Reply::Huge => {
                write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n")?;
                // Until nobody reads it.
                loop {
                    stream.write_all(&[b'x'; 1 << 16])?;
                }
            }
            Reply::Interim => loop {
                stream.write_all(&b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1_000))?;
            },
            Reply::Close => return Ok(()),
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Received>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
    assert!(line.starts_with("POST "), "{line}");
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    reader.read_exact(&mut body)?;
    Ok(Some(Received { target, headers, text: String::from_utf8(body).unwrap() }))
}
