//! The threads that compute: an engine and an encoder on their own, which HTTP tasks reach by channels.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, mpsc as blocking};
use std::thread;

use lathe_engine::{AdapterId, Encoder, Engine, EngineError, Event, Forward, Load, Request, SequenceId};
use lathe_models::Adapter;
use tokio::sync::{mpsc, oneshot};

use crate::error::{ApiError, ServeError};

/// What a step did for a request, or why there are no steps any more.
pub(crate) type Message = Result<Vec<Event>, EngineError>;

enum Command {
    Start(Box<Request>, mpsc::UnboundedSender<Message>, oneshot::Sender<Result<SequenceId, EngineError>>),
    /// Puts an adapter beside the model.
    Load(Box<Adapter>, oneshot::Sender<Result<AdapterId, EngineError>>),
    /// Takes an adapter out.
    Unload(AdapterId),
    /// Ends one sequence.
    End(SequenceId),
    /// Ends a request of so many sequences.
    Cancel(SequenceId, usize),
}

/// The way to an engine's thread.
#[derive(Clone)]
pub(crate) struct Handle {
    commands: blocking::Sender<Command>,
    load: Arc<Mutex<Load>>,
    pending: Arc<AtomicUsize>,
    most_pending: usize,
    /// The most tokens of a sequence.
    pub(crate) longest: usize,
    /// The most sequences at once.
    pub(crate) max_sequences: usize,
}

/// A request in the engine's hands; dropping it cancels the request.
pub(crate) struct Ticket {
    pub(crate) id: SequenceId,
    samples: usize,
    events: mpsc::UnboundedReceiver<Message>,
    handle: Handle,
}

/// Starts an engine's thread, which takes so many requests beyond those that it can run at once.
pub(crate) fn start<F: Forward + Send + 'static>(
    engine: Engine<F>,
    queue: usize,
) -> Result<Handle, ServeError> {
    let (commands, received) = blocking::channel();
    let load = Arc::new(Mutex::new(engine.load()));
    let max_sequences = engine.model().max_sequences();
    let handle = Handle {
        commands,
        load: load.clone(),
        pending: Arc::default(),
        most_pending: max_sequences.saturating_add(queue),
        longest: engine.longest(),
        max_sequences,
    };
    let thread = thread::Builder::new().name("engine".to_owned());
    thread.spawn(move || run(engine, &received, &load)).map_err(ServeError::Start)?;
    Ok(handle)
}

fn run<F: Forward>(mut engine: Engine<F>, commands: &blocking::Receiver<Command>, load: &Mutex<Load>) {
    // By the first sequence of each request.
    let mut listeners: BTreeMap<SequenceId, (usize, mpsc::UnboundedSender<Message>)> = BTreeMap::new();
    loop {
        // Without work the thread sleeps; without anybody who could send some it ends.
        let first = match engine.is_idle().then(|| commands.recv()) {
            Some(Ok(command)) => Some(command),
            Some(Err(_)) => return,
            None => None,
        };
        for command in first.into_iter().chain(commands.try_iter()) {
            match command {
                Command::Start(request, events, reply) => {
                    let samples = request.samples.max(1);
                    let added = engine.add(*request);
                    if let Ok(id) = &added {
                        listeners.insert(*id, (samples, events));
                    }
                    // Who does not wait for the reply gets no ticket that would cancel it.
                    if let Err(Ok(id)) = reply.send(added) {
                        listeners.remove(&id);
                        cancel(&mut engine, id, samples);
                    }
                }
                Command::Load(adapter, reply) => {
                    // Who does not wait for the reply could not name it.
                    if let Err(Ok(id)) = reply.send(engine.load_adapter(&adapter)) {
                        engine.unload_adapter(id);
                    }
                }
                Command::Unload(id) => {
                    engine.unload_adapter(id);
                }
                Command::End(id) => cancel(&mut engine, id, 1),
                Command::Cancel(id, samples) => {
                    listeners.remove(&id);
                    cancel(&mut engine, id, samples);
                }
            }
        }
        match engine.step() {
            Ok(events) => {
                let mut messages: BTreeMap<SequenceId, Vec<Event>> = BTreeMap::new();
                for event in events {
                    if let Some((&first, _)) = listeners.range(..=event.sequence()).next_back() {
                        messages.entry(first).or_default().push(event);
                    }
                }
                for (first, message) in messages {
                    // Who listens no more is about to cancel.
                    if let Some((_, events)) = listeners.get(&first) {
                        let _ = events.send(Ok(message));
                    }
                }
            }
            Err(error) => {
                // A model that failed once is not tried again with the same requests.
                for (first, (samples, events)) in std::mem::take(&mut listeners) {
                    let _ = events.send(Err(error.clone()));
                    cancel(&mut engine, first, samples);
                }
            }
        }
        *load.lock().unwrap_or_else(PoisonError::into_inner) = engine.load();
    }
}

fn cancel<F: Forward>(engine: &mut Engine<F>, id: SequenceId, samples: usize) {
    for index in 0..samples {
        engine.cancel(id.sample(index));
    }
}

impl Handle {
    /// Gives the engine a request.
    pub(crate) async fn submit(&self, request: Request) -> Result<Ticket, ApiError> {
        let samples = request.samples.max(1);
        let (events, received) = mpsc::unbounded_channel();
        let (reply, replied) = oneshot::channel();
        if self.pending.fetch_add(1, SeqCst) >= self.most_pending {
            self.pending.fetch_sub(1, SeqCst);
            return Err(ApiError::full());
        }
        let pending = Pending(self.pending.clone());
        self.commands.send(Command::Start(Box::new(request), events, reply)).map_err(|_| gone())?;
        let id = replied.await.map_err(|_| gone())??;
        // The ticket counts from here.
        std::mem::forget(pending);
        Ok(Ticket { id, samples, events: received, handle: self.clone() })
    }

    /// Puts an adapter beside the model.
    pub(crate) async fn load_adapter(&self, adapter: Adapter) -> Result<AdapterId, ApiError> {
        let (reply, replied) = oneshot::channel();
        self.commands.send(Command::Load(Box::new(adapter), reply)).map_err(|_| gone())?;
        Ok(replied.await.map_err(|_| gone())??)
    }

    /// Takes an adapter out; requests that have it go on.
    pub(crate) fn unload_adapter(&self, id: AdapterId) {
        let _ = self.commands.send(Command::Unload(id));
    }

    /// What the engine had in hand after its last step.
    pub(crate) fn load(&self) -> Load {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests that are in the engine's hands.
    pub(crate) fn pending(&self) -> usize {
        self.pending.load(SeqCst)
    }
}

fn gone() -> ApiError {
    ApiError::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, "the engine has stopped")
}

/// One request more, until it is dropped.
struct Pending(Arc<AtomicUsize>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Ticket {
    /// What the next step did.
    pub(crate) async fn next(&mut self) -> Message {
        self.events.recv().await.unwrap_or(Err(EngineError::Interrupted))
    }

    /// Ends one of its sequences.
    pub(crate) fn end(&self, index: usize) {
        let _ = self.handle.commands.send(Command::End(self.id.sample(index)));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.handle.pending.fetch_sub(1, SeqCst);
        let _ = self.handle.commands.send(Command::Cancel(self.id, self.samples));
    }
}

type Texts = (Vec<Vec<u32>>, oneshot::Sender<Result<Vec<Vec<f32>>, EngineError>>);

/// The way to an encoder's thread.
#[derive(Clone)]
pub(crate) struct EncoderHandle {
    texts: mpsc::Sender<Texts>,
    /// The most tokens of a text.
    pub(crate) longest: usize,
}

/// Starts an encoder's thread; so many requests may wait for it.
pub(crate) fn start_encoder(mut encoder: Encoder, queue: usize) -> Result<EncoderHandle, ServeError> {
    let (texts, mut received) = mpsc::channel::<Texts>(queue.max(1));
    let handle = EncoderHandle { texts, longest: encoder.longest() };
    let thread = thread::Builder::new().name("encoder".to_owned());
    let work = move || {
        while let Some((texts, reply)) = received.blocking_recv() {
            if !reply.is_closed() {
                // Who does not wait any more does not want it.
                let _ = reply.send(encoder.embed(&texts));
            }
        }
    };
    thread.spawn(work).map_err(ServeError::Start)?;
    Ok(handle)
}

impl EncoderHandle {
    /// The vectors of texts.
    pub(crate) async fn embed(&self, texts: Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>, ApiError> {
        let (reply, replied) = oneshot::channel();
        self.texts.try_send((texts, reply)).map_err(|_| ApiError::full())?;
        let vectors = replied.await.unwrap_or(Err(EngineError::Interrupted));
        Ok(vectors?)
    }
}
