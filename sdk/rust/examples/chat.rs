//! A terminal chat: `MILLRACE_TOKEN=… cargo run -p millrace-client --example chat -- ws://127.0.0.1:7400 general`

use millrace_client::{Client, Event};
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or("ws://127.0.0.1:7400".into());
    let name = arguments.next().unwrap_or("general".into());
    let token = std::env::var("MILLRACE_TOKEN").map_err(|_| "put an access token into MILLRACE_TOKEN")?;

    let client = Client::builder(url).token(token).connect().await?;
    let mut channel = client.subscribe(name).await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            line = lines.next_line() => match line? {
                Some(line) => drop(channel.submit(line).await?),
                None => break,
            },
            event = channel.next() => match event {
                Some(Event::Message(message)) => println!("{}: {}", message.user, message.text()),
                Some(Event::Ended(error)) => return Err(error.into()),
                Some(other) => println!("({other:?})"),
                None => break,
            },
        }
    }
    client.close().await?;
    Ok(())
}
