//! Clients, subscriptions and senders by the names that the runner gives them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use millrace_client::{Channel, Client, Error, Position, Sender, Unread, UnreadWatch};
use serde_json::{Value, json};
use tokio::sync::{OnceCell, mpsc, oneshot};
use tokio::task::spawn_local;

use crate::command::{Command, Connect, body};
use crate::{emit, report};

type Id = u64;
/// A client's name and a channel's.
type Of = (String, String);
/// The answer to one question of a token provider.
type Answer = Result<String, String>;

/// Cheap to clone; all clones are one driver.
#[derive(Clone, Default)]
pub(crate) struct Driver(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    clients: HashMap<String, Client>,
    readers: HashMap<Of, mpsc::UnboundedSender<Order>>,
    senders: HashMap<Of, Rc<OnceCell<Sender>>>,
    outboxes: HashMap<Of, mpsc::UnboundedSender<(Id, Vec<u8>)>>,
    /// Questions of token providers that wait for an answer.
    asks: Asks,
}

/// The providers of clients run wherever the SDK likes, so this is shared between threads.
type Asks = std::sync::Arc<std::sync::Mutex<HashMap<(String, u64), oneshot::Sender<Answer>>>>;

/// What a subscription's task is told.
enum Order {
    Pause(Id),
    Unpause(Id),
    Unsubscribe(Id),
    MarkRead(Id, Position),
}

impl Driver {
    /// Begins what a line asks for; the answer comes as an event.
    pub(crate) fn begin(&self, line: &str) {
        let parsed = serde_json::from_str::<Value>(line).map_err(|error| error.to_string());
        let (id, command) = match parsed {
            Ok(Value::Object(mut fields)) => {
                let id = fields.remove("id").and_then(|id| id.as_u64()).unwrap_or(0);
                (id, serde_json::from_value::<Command>(Value::Object(fields)).map_err(|error| error.to_string()))
            }
            Ok(_) => (0, Err("a command is an object".into())),
            Err(error) => (0, Err(error)),
        };
        match command {
            Ok(command) => self.command(id, command),
            Err(message) => unsupported(id, &message),
        }
    }

    fn command(&self, id: Id, command: Command) {
        match command {
            Command::Connect(connect) => self.connect(id, *connect),
            Command::Subscribe { client, channel, start, paused } => {
                let Some(start) = start.start() else { return unsupported(id, "there is no epoch 0") };
                let Some(of) = self.client(id, &client) else { return };
                let (sender, orders) = mpsc::unbounded_channel();
                let driver = self.clone();
                spawn_local(async move {
                    match of.subscribe_from(&channel, start).await {
                        Ok(subscription) => {
                            driver.0.borrow_mut().readers.insert((client.clone(), channel.clone()), sender);
                            done(
                                id,
                                json!({
                                    "position": report::position(subscription.position()),
                                    "history": report::history(subscription.history_class()),
                                    "can_publish": subscription.can_publish(),
                                }),
                            );
                            read(client, channel, subscription, !paused, orders).await;
                        }
                        Err(error) => failed(id, &error),
                    }
                });
            }
            Command::Pause { client, channel } => self.order(id, client, channel, Order::Pause(id)),
            Command::Unpause { client, channel } => self.order(id, client, channel, Order::Unpause(id)),
            Command::Unsubscribe { client, channel } => self.order(id, client, channel, Order::Unsubscribe(id)),
            Command::Send { client, channel, text, base64 } => match body(text, base64) {
                Ok(body) => self.send(id, client, channel, body),
                Err(message) => unsupported(id, &message),
            },
            Command::History { client, channel, before, after, limit } => {
                let Some(of) = self.client(id, &client) else { return };
                let sender = self.sender(client, channel.clone());
                spawn_local(async move {
                    let page = async {
                        let sender = sender.get_or_try_init(|| of.sender(channel)).await?;
                        let mut history = sender.history();
                        if let Some(offset) = before {
                            history = history.before(offset);
                        }
                        if let Some(offset) = after {
                            history = history.after(offset);
                        }
                        if let Some(limit) = limit {
                            history = history.limit(limit);
                        }
                        history.await
                    };
                    match page.await {
                        Ok(page) => {
                            let messages: Vec<Value> = page.messages.iter().map(report::message).collect();
                            done(id, json!({ "messages": messages, "more": page.more }));
                        }
                        Err(error) => failed(id, &error),
                    }
                });
            }
            Command::MarkRead { client, channel, position } => {
                let Some(position) = position.position() else { return unsupported(id, "there is no epoch 0") };
                let Some(of) = self.client(id, &client) else { return };
                // A sender is opened with a connection; who reads marks without one, too.
                let reader = self.0.borrow().readers.get(&(client.clone(), channel.clone())).cloned();
                if reader.is_some_and(|orders| orders.send(Order::MarkRead(id, position)).is_ok()) {
                    return;
                }
                let sender = self.sender(client, channel.clone());
                spawn_local(async move {
                    let marked = async {
                        let sender = sender.get_or_try_init(|| of.sender(channel)).await?;
                        sender.mark_read(position).await
                    };
                    match marked.await {
                        Ok(()) => done(id, json!({})),
                        Err(error) => failed(id, &error),
                    }
                });
            }
            Command::Token { client, ask, token, error } => {
                let answer = match (token, error) {
                    (Some(token), None) => Ok(token),
                    (None, Some(error)) => Err(error),
                    _ => return unsupported(id, "either token or error"),
                };
                let asks = self.0.borrow().asks.clone();
                let waiting = asks.lock().expect("no holder panics").remove(&(client, ask));
                match waiting.map(|waiting| waiting.send(answer)) {
                    Some(_) => done(id, json!({})),
                    None => unsupported(id, "nobody asks for this token"),
                }
            }
            Command::Close { client } => {
                let Some(of) = self.client(id, &client) else { return };
                spawn_local(async move {
                    match of.close().await {
                        Ok(()) => done(id, json!({})),
                        Err(error) => failed(id, &error),
                    }
                });
            }
        }
    }

    fn connect(&self, id: Id, connect: Connect) {
        let builder = connect.options(Client::builder(&connect.url));
        let builder = match (&connect.token, connect.token_provider) {
            (Some(token), false) => builder.token(token),
            (None, true) => {
                let (asks, client) = (self.0.borrow().asks.clone(), connect.client.clone());
                let count = std::sync::atomic::AtomicU64::new(0);
                builder.token_provider(move || {
                    let ask = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
                    let (answer, answered) = oneshot::channel();
                    asks.lock().expect("no holder panics").insert((client.clone(), ask), answer);
                    emit(&json!({ "event": "token_wanted", "client": client, "ask": ask }));
                    async move { answered.await.unwrap_or_else(|_| Err("the driver ends".into())) }
                })
            }
            _ => return unsupported(id, "either token or token_provider"),
        };
        if connect.lazy {
            match builder.connect_lazy() {
                Ok(client) => self.connected(id, connect.client, client),
                Err(error) => failed(id, &error),
            }
            return;
        }
        let driver = self.clone();
        spawn_local(async move {
            match builder.connect().await {
                Ok(client) => driver.connected(id, connect.client, client),
                Err(error) => failed(id, &error),
            }
        });
    }

    fn connected(&self, id: Id, name: String, client: Client) {
        let mut watch = client.watch_state();
        self.0.borrow_mut().clients.insert(name.clone(), client);
        done(id, json!({}));
        spawn_local(async move {
            let mut state = Some(watch.current());
            while let Some(shown) = state {
                let mut event = report::state(&shown);
                event["event"] = "state".into();
                event["client"] = name.as_str().into();
                emit(&event);
                state = watch.changed().await;
            }
        });
    }

    fn client(&self, id: Id, name: &str) -> Option<Client> {
        let client = self.0.borrow().clients.get(name).cloned();
        if client.is_none() {
            unsupported(id, &format!("no client {name}"));
        }
        client
    }

    fn order(&self, id: Id, client: String, channel: String, order: Order) {
        let of = (client, channel);
        let mut state = self.0.borrow_mut();
        let told = state.readers.get(&of).is_some_and(|orders| orders.send(order).is_ok());
        if !told {
            state.readers.remove(&of);
            unsupported(id, "no such subscription");
        }
    }

    fn sender(&self, client: String, channel: String) -> Rc<OnceCell<Sender>> {
        self.0.borrow_mut().senders.entry((client, channel)).or_default().clone()
    }

    /// Queues a message behind those before it; one task per channel gives them to the SDK.
    fn send(&self, id: Id, client: String, channel: String, body: Vec<u8>) {
        let Some(of) = self.client(id, &client) else { return };
        let sender = self.sender(client.clone(), channel.clone());
        let mut state = self.0.borrow_mut();
        let outbox = state.outboxes.entry((client, channel.clone())).or_insert_with(|| {
            let (outbox, mut messages) = mpsc::unbounded_channel::<(Id, Vec<u8>)>();
            spawn_local(async move {
                while let Some((id, body)) = messages.recv().await {
                    let submitted = async {
                        let sender = sender.get_or_try_init(|| of.sender(channel.clone())).await?;
                        sender.submit(body).await
                    };
                    match submitted.await {
                        Ok(ticket) => {
                            emit(&json!({ "event": "submitted", "id": id }));
                            spawn_local(async move {
                                match ticket.await {
                                    Ok(position) => done(id, json!({ "position": report::position(position) })),
                                    Err(error) => failed(id, &error),
                                }
                            });
                        }
                        Err(error) => failed(id, &error),
                    }
                }
            });
            outbox
        });
        // The task ends with the driver.
        let _ = outbox.send((id, body));
    }
}

/// Reads a subscription until it is told to stop.
async fn read(
    client: String,
    name: String,
    mut channel: Channel,
    mut reads: bool,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    let mut unread = channel.watch_unread();
    let mut shown = None;
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(Order::Pause(id)) => {
                    reads = false;
                    done(id, json!({}));
                }
                Some(Order::Unpause(id)) => {
                    reads = true;
                    done(id, json!({}));
                }
                Some(Order::MarkRead(id, position)) => match channel.mark_read(position).await {
                    Ok(()) => done(id, json!({})),
                    Err(error) => failed(id, &error),
                },
                Some(Order::Unsubscribe(id)) => {
                    drop(channel);
                    return done(id, json!({}));
                }
                None => return,
            },
            () = tell_unread(&client, &name, &mut unread, &mut shown) => {}
            event = channel.next(), if reads => match event {
                Some(event) => {
                    let mut event = report::event(&event);
                    event["client"] = client.as_str().into();
                    event["channel"] = name.as_str().into();
                    emit(&event);
                }
                None => reads = false,
            },
        }
    }
}

/// Tells how much is unread once that is news; for ever without an end once the client is closed.
async fn tell_unread(client: &str, channel: &str, watch: &mut UnreadWatch, shown: &mut Option<Unread>) {
    let news = match watch.current() {
        current if current.is_some() && current != *shown => current,
        _ => watch.changed().await,
    };
    let Some(unread) = news else { return std::future::pending().await };
    *shown = Some(unread);
    let (read, newest) = (report::position(unread.read), report::position(unread.newest));
    let event = json!({ "event": "unread", "client": client, "channel": channel, "count": unread.count });
    emit(&with(event, &[("read", read), ("newest", newest)]));
}

fn with(mut event: Value, fields: &[(&str, Value)]) -> Value {
    for (name, value) in fields {
        event[*name] = value.clone();
    }
    event
}

fn done(id: Id, mut fields: Value) {
    fields["event"] = "done".into();
    fields["id"] = id.into();
    emit(&fields);
}

fn failed(id: Id, error: &Error) {
    emit(&json!({ "event": "failed", "id": id, "error": report::error(error) }));
}

fn unsupported(id: Id, message: &str) {
    let error = json!({ "kind": "unsupported", "advice": "do-not-retry", "message": message });
    emit(&json!({ "event": "failed", "id": id, "error": error }));
}
