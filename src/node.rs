//! One node: all parts built, bound, run, and ended in order.
//!
//! The only place that knows every part. Tests start nodes the same way `main` does, on port 0.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use socketioxide::{ParserConfig, SocketIo};
use tokio::{
    runtime::Handle,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::{
    adapter::{AdapterState, OutletSlot},
    admission::Admission,
    cluster::{Cluster, topology::Deployment},
    config::{self, BadSettings, Limits, ProxyProtocol, Settings, Timeouts},
    exchange::{Addressee, Post},
    http::{
        self,
        admin::Admin,
        api::{Token, Turns},
        client_library,
        engine::{Engine, Service},
    },
    ice::Ice,
    id::{NodeId, PeerId},
    lifecycle::Lifecycle,
    limits::Limiter,
    metrics::Metrics,
    reload::{Commit, Refused, Reload},
    rooms::{Registry, memory::MemoryRegistry},
    signaling::{Io, Parts, Signaling},
    telemetry::{
        self,
        otlp::{self, Exporting},
        trace::Tracer,
    },
    transport::{
        listener::{self, Door, ListenOptions},
        tls::{self, Certificates},
        wire::WireContext,
    },
};

/// Read buffer of a WebSocket, in bytes. An idle socket pays for it; a larger message makes it grow for as long as it
/// takes, and costs no further system call (see `Wire`).
const WEBSOCKET_READ_BUFFER: usize = 512;
/// Packets that may wait for one socket. What bounds a queue of messages is its bytes; this bounds what the library answers
/// of its own, which nobody counts.
const QUEUED_PACKETS: usize = 1 << 16;
/// How often what is not worth remembering is forgotten.
const SWEEP: Duration = Duration::from_secs(10);

/// A running node.
#[derive(Debug)]
pub struct Node {
    /// Where the public listener is.
    pub public: SocketAddr,
    /// Where the admin listener is.
    pub admin: SocketAddr,
    lifecycle: Lifecycle,
    signaling: Arc<Signaling>,
    admission: Arc<Admission>,
    cluster: Option<Cluster>,
    reload: Arc<Reload>,
    listeners: Vec<JoinHandle<()>>,
    /// To the collector of traces, if there is one.
    exporting: Option<Exporting>,
}

impl Node {
    /// Checks what can only be checked by the parts that use it: files that are named, the form of an address.
    ///
    /// # Errors
    /// One line that names the setting.
    pub fn check(settings: &Settings) -> anyhow::Result<()> {
        Admission::check(&settings.admission)?;
        if !settings.redis.url.is_empty() {
            Deployment::parse(&settings.redis)?;
        }
        Ice::new(&settings.ice)?;
        if settings.tls.is_on() {
            tls::check(&certificate_files(&settings.tls)).map_err(|error| anyhow::anyhow!("tls: {error}"))?;
        }
        settings.admin.bearer()?;
        Ok(())
    }

    /// Builds and starts a node. When this returns, it can be reached; alone it is also ready, with others as soon as
    /// they know of it.
    ///
    /// # Errors
    /// A port that cannot be bound, or parts that do not fit together.
    #[expect(clippy::unused_async, reason = "it has to be called where tasks can be spawned")]
    pub async fn start(settings: Settings) -> anyhow::Result<Self> {
        let metrics = Metrics::new()?;
        let lifecycle = Lifecycle::default();
        let starting = lifecycle.hold("starting");
        let timeouts = &settings.timeouts;
        let limits = &settings.limits;
        let limiter = Limiter::new(limits, metrics.limited.clone());
        lifecycle.spawn(sweep(Arc::clone(&limiter)));

        let node = NodeId::random();
        let admission = Admission::start(&settings.admission, metrics.clone(), lifecycle.clone())?;
        let cluster = cluster(&settings, node, &metrics, &lifecycle)?;
        let (registry, post) = seats(cluster.as_ref());
        let certificates = certificates(&settings.tls, &metrics)?;
        let (tracer, exporting) = otlp::start(&settings.telemetry, node, &metrics)?;
        let ice = Arc::new(Ice::new(&settings.ice)?);
        let outlet = Arc::new(OutletSlot::default());
        let signaling = Signaling::new(
            registry,
            Parts {
                node,
                post,
                admission: Arc::clone(&admission),
                outlet: Arc::clone(&outlet),
                compat: settings.compat.clone(),
                seats: settings.seats.clone(),
                ice: Arc::clone(&ice),
                limits: limits.clone(),
                limiter: Arc::clone(&limiter),
                timeouts: timeouts.clone(),
                metrics: metrics.clone(),
                tracer: tracer.clone(),
                lifecycle: lifecycle.clone(),
            },
        );
        let state = AdapterState { slot: outlet, driver: cluster.as_ref().map(|cluster| cluster.driver.clone()) };
        let (service, io) = socket_io(limits, timeouts, state);
        signaling.attach(&io);

        let options = ListenOptions {
            backlog: settings.server.backlog,
            header_timeout: timeouts.handshake,
            user_timeout: timeouts.write_stall,
            keepalive: timeouts.ping_interval,
        };
        let bind = |what: &str, address| {
            listener::bind(address, options)
                .map_err(|error| anyhow::anyhow!("{what}: cannot listen on {address}: {error}"))
        };
        let public_listener = bind("server.listen", settings.server.listen)?;
        let admin_listener = bind("admin.listen", settings.admin.listen)?;
        let (public, admin) = (public_listener.local_addr()?, admin_listener.local_addr()?);

        let engine = engine(service, &settings, &metrics, &lifecycle, (&limiter, &admission));
        let public_routes = http::public(Arc::new(engine), Arc::clone(&ice), &settings.page, &settings.server);
        let changeable = Changeable {
            signaling: &signaling,
            tracer: &tracer,
            ice: &ice,
            admission: &admission,
            limiter: &limiter,
            certificates: certificates.as_ref(),
            token: &Arc::default(),
        };
        let operator = changeable.operator(&settings, &metrics, &lifecycle)?;
        let reload = Arc::clone(&operator.reload);
        let admin_routes = http::admin(operator);
        let listeners = vec![
            tokio::spawn(listener::serve(
                public_listener,
                options,
                Some(Arc::new(door(&settings, &limiter, certificates.clone()))),
                public_routes,
                public_wires(&metrics, timeouts.write_stall, Arc::clone(&limiter)),
                metrics.http_connections.clone(),
                lifecycle.accept_token().clone(),
            )),
            tokio::spawn(listener::serve(
                admin_listener,
                options,
                None,
                admin_routes,
                // The operator's own traffic is in no metric.
                Arc::new(WireContext::uncounted(timeouts.write_stall)?),
                prometheus::IntGauge::new("uncounted", "uncounted")?,
                lifecycle.stop_token().clone(),
            )),
        ];
        warn_of_what_is_missing();
        if let Some(cluster) = &cluster {
            let addressee: Arc<dyn Addressee> = signaling.clone();
            cluster.run(&lifecycle, &Arc::downgrade(&addressee));
        }
        if let Some(certificates) = certificates {
            let reload = Arc::clone(&reload);
            lifecycle.spawn(async move { watch(&certificates, &reload).await });
        }
        drop(starting);
        Ok(Self { public, admin, lifecycle, signaling, admission, cluster, reload, listeners, exporting })
    }

    /// Puts other settings into force, all or none; tells which changed. Why they were refused stands in the log as well.
    ///
    /// # Errors
    /// [`Refused`]; then nothing has changed.
    pub async fn reload(
        &self,
        read: impl FnOnce() -> Result<Settings, BadSettings> + Send + 'static,
    ) -> Result<Vec<String>, Refused> {
        let reload = Arc::clone(&self.reload);
        let applied = tokio::task::spawn_blocking(move || reload.apply(read().map_err(Refused::because)));
        applied.await.unwrap_or_else(|error| Err(Refused::because(error)))
    }

    /// Who may come in: to say so, and to change it.
    #[must_use]
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// How many sockets all nodes have.
    ///
    /// # Errors
    /// When not every node answers.
    pub async fn sockets_of_all_nodes(&self) -> anyhow::Result<usize> {
        self.signaling.sockets_of_all_nodes().await
    }

    /// Ends a socket, whichever node it is on; tells whether there was one.
    ///
    /// # Errors
    /// When not every node answers.
    pub async fn disconnect(&self, peer: PeerId) -> anyhow::Result<bool> {
        self.signaling.disconnect(peer).await
    }

    /// Drains and ends the node, within the time that the settings give.
    pub async fn stop(self) {
        tracing::info!(sockets = self.signaling.sessions().len(), "draining");
        let drain = self.reload.current().timeouts.drain;
        let until = Instant::now() + drain;
        self.lifecycle.drain();
        let drained = async {
            // Half for saying good-bye; the rest for those that are slow to hear it. Sessions that poll go on meanwhile, over
            // whatever connections they make; new ones are refused.
            self.signaling.drain(drain / 2).await;
            self.lifecycle.accept_token().cancel();
            if let Some(cluster) = &self.cluster {
                cluster.quit().await;
            }
            self.lifecycle.stopped().await;
            for listener in self.listeners {
                let _ = listener.await;
            }
        };
        if timeout_at(until, drained).await.is_err() {
            tracing::warn!("not every connection ended in time");
        }
        if let Some(exporting) = self.exporting {
            exporting.finish(until).await;
        }
        tracing::info!("stopped");
    }
}

fn engine(
    service: Service,
    settings: &Settings,
    metrics: &Metrics,
    lifecycle: &Lifecycle,
    (limiter, admission): (&Arc<Limiter>, &Arc<Admission>),
) -> Engine {
    Engine {
        service,
        flows: Arc::default(),
        websockets: metrics.websockets.clone(),
        handshake: settings.timeouts.handshake,
        request: settings.timeouts.request,
        admission: Arc::clone(admission),
        lifecycle: lifecycle.clone(),
        limiter: Arc::clone(limiter),
        trusted: settings.server.trusted_proxies.clone(),
        origins: settings.server.allowed_origins.clone(),
        told_of_proxy: AtomicBool::new(false),
    }
}

fn door(settings: &Settings, limiter: &Arc<Limiter>, tls: Option<Arc<Certificates>>) -> Door {
    Door {
        limiter: Arc::clone(limiter),
        trusted: settings.server.trusted_proxies.clone(),
        announced: settings.server.proxy_protocol == ProxyProtocol::On,
        tls,
    }
}

/// What joins this node to others, if there are to be any.
fn cluster(
    settings: &Settings,
    node: NodeId,
    metrics: &Metrics,
    lifecycle: &Lifecycle,
) -> anyhow::Result<Option<Cluster>> {
    if settings.redis.url.is_empty() {
        return Ok(None);
    }
    let deployment = Deployment::parse(&settings.redis)?;
    let times = (&settings.cluster, &settings.seats);
    Ok(Some(Cluster::new(deployment, &settings.redis, times, node, metrics, lifecycle)))
}

/// Who keeps the seats, and the way to the nodes that share them, if any do.
fn seats(cluster: Option<&Cluster>) -> (Arc<dyn Registry>, Option<Arc<dyn Post>>) {
    match cluster {
        None => (Arc::new(MemoryRegistry::default()), None),
        Some(cluster) => (cluster.registry.clone(), Some(cluster.bus.clone())),
    }
}

fn warn_of_what_is_missing() {
    if !client_library::is_built_in() {
        tracing::warn!(
            "built without the Socket.IO client library (npm was missing): /socket.io/socket.io.js is not served"
        );
    }
}

/// The parts whose settings can change while the node runs.
struct Changeable<'a> {
    signaling: &'a Arc<Signaling>,
    tracer: &'a Tracer,
    ice: &'a Arc<Ice>,
    admission: &'a Arc<Admission>,
    limiter: &'a Arc<Limiter>,
    certificates: Option<&'a Arc<Certificates>>,
    token: &'a Arc<Token>,
}

impl Changeable<'_> {
    /// What the operator's listener works with.
    fn operator(&self, settings: &Settings, metrics: &Metrics, lifecycle: &Lifecycle) -> anyhow::Result<Admin> {
        self.token.set(settings.admin.bearer()?);
        Ok(Admin {
            lifecycle: lifecycle.clone(),
            metrics: metrics.clone(),
            signaling: Arc::clone(self.signaling),
            reload: Arc::new(self.reload(settings, metrics)),
            token: Arc::clone(self.token),
            turns: Turns::default(),
        })
    }

    /// What a reload can change, and how: a line or two each. What is in no list stays as it was at the start.
    fn reload(&self, settings: &Settings, metrics: &Metrics) -> Reload {
        let mut reload = Reload::new(settings.clone(), metrics.clone());
        reload.part(&["log.level"], |new| {
            let log = new.log.clone();
            log.filter().map_err(Refused::because)?;
            Ok(Box::new(move || {
                // It was found valid just now.
                let _ = telemetry::set_log_level(&log);
            }))
        });
        let of = (Arc::clone(self.signaling), Arc::clone(self.limiter));
        reload.part(LIMITS, move |new| {
            let ((signaling, limiter), limits) = (of.clone(), new.limits.clone());
            Ok(Box::new(move || {
                signaling.reload_limits(&limits);
                limiter.reload(&limits);
            }))
        });
        let of = Arc::clone(self.signaling);
        reload.part(&["compat.*"], move |new| {
            let (of, compat) = (Arc::clone(&of), new.compat.clone());
            Ok(Box::new(move || of.reload_compat(&compat)))
        });
        let of = self.tracer.clone();
        reload.part(&["telemetry.sample_ratio"], move |new| {
            let (of, ratio) = (of.clone(), new.telemetry.sample_ratio);
            Ok(Box::new(move || of.set_ratio(ratio)))
        });
        let of = Arc::clone(self.ice);
        reload.part(&["ice.*"], move |new| {
            let (of, prepared) = (Arc::clone(&of), Ice::prepare(&new.ice).map_err(Refused::because)?);
            Ok(Box::new(move || of.take(prepared)))
        });
        let of = Arc::clone(self.admission);
        let runtime = Handle::current();
        reload.part(&["admission.*"], move |new| {
            Admission::check(&new.admission).map_err(Refused::because)?;
            let (of, admission, runtime) = (Arc::clone(&of), new.admission.clone(), runtime.clone());
            Ok(Box::new(move || {
                // What fetches keys is a task.
                let _runtime = runtime.enter();
                if let Err(error) = of.reload(&admission) {
                    tracing::error!(%error, "its file changed meanwhile: admission stays as it was");
                }
            }))
        });
        let of = Arc::clone(self.token);
        reload.part(&["admin.token", "admin.token_file"], move |new| {
            let (of, token) = (Arc::clone(&of), new.admin.bearer().map_err(Refused::because)?);
            Ok(Box::new(move || of.set(token)))
        });
        // Read where it is used.
        reload.part(&["timeouts.drain"], |_| Ok(Box::new(|| {})));
        if let Some(certificates) = self.certificates {
            let of = Arc::clone(certificates);
            reload.part(&["tls.*"], move |new| replacing(&of, &new.tls));
        }
        reload
    }
}

/// All of `[limits]` but what the parts take that are built at the start.
const LIMITS: &[&str] = &[
    "limits.room_event_bytes",
    "limits.description_bytes",
    "limits.candidate_bytes",
    "limits.depth",
    "limits.outbound_bytes",
    "limits.rooms_per_socket",
    "limits.events",
    "limits.bytes",
    "limits.frames",
    "limits.sockets",
    "limits.connections",
    "limits.sockets_per_address",
    "limits.connections_per_address",
    "limits.handshakes",
    "limits.joins",
    "limits.room_joins",
    "limits.failures",
    "limits.tracked",
];

/// Another certificate, if there is one. Whether there is TLS at all does not change.
fn replacing(certificates: &Arc<Certificates>, settings: &config::Tls) -> Result<Commit, Refused> {
    if !settings.is_on() {
        return Err(Refused::Fixed(vec!["tls.cert_file".into(), "tls.key_file".into()]));
    }
    let prepared = certificates.prepare(&certificate_files(settings));
    let prepared = prepared.map_err(|error| Refused::because(format_args!("tls: {error}")))?;
    let certificates = Arc::clone(certificates);
    Ok(Box::new(move || {
        if let Some(identity) = prepared {
            certificates.replace(identity);
        }
        certificates.look_anew();
    }))
}

fn certificate_files(settings: &config::Tls) -> tls::Files {
    tls::Files { certificate: settings.cert_file.clone(), key: settings.key_file.clone() }
}

/// The certificate of the public listener, if it is to have one.
fn certificates(settings: &config::Tls, metrics: &Metrics) -> anyhow::Result<Option<Arc<Certificates>>> {
    if !settings.is_on() {
        return Ok(None);
    }
    let counters = tls::Counters {
        expiry: metrics.tls_certificate_expiry.clone(),
        finished: metrics.tls_handshakes_finished.clone(),
        failed: metrics.tls_handshakes_failed.clone(),
        late: metrics.tls_handshakes_late.clone(),
        replaced: metrics.tls_certificates_replaced.clone(),
        refused: metrics.tls_certificates_refused.clone(),
    };
    let loaded = Certificates::load(&certificate_files(settings), counters);
    Ok(Some(Arc::new(loaded.map_err(|error| anyhow::anyhow!("tls: {error}"))?)))
}

/// Looks after the certificate's files, as often as the settings in force have it, for ever.
async fn watch(certificates: &Arc<Certificates>, reload: &Reload) {
    loop {
        let pause = reload.current().tls.watch;
        let due = async {
            if pause.is_zero() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(pause).await;
        };
        tokio::select! {
            () = due => {
                let certificates = Arc::clone(certificates);
                // It ends with the reading of two files.
                let _ = tokio::task::spawn_blocking(move || certificates.look()).await;
            }
            () = certificates.looks_anew() => {}
        }
    }
}

/// The Socket.IO server.
fn socket_io(limits: &Limits, timeouts: &Timeouts, state: AdapterState) -> (Service, Io) {
    SocketIo::builder()
        .with_parser(
            ParserConfig::common()
                .max_incoming_binaries(limits.attachments)
                .max_incoming_binary_buf_size(limits.message_bytes)
                .packet_completion_timeout(timeouts.request),
        )
        .req_path("/socket.io")
        .ping_interval(timeouts.ping_interval)
        .ping_timeout(timeouts.ping_timeout)
        .upgrade_timeout(timeouts.handshake)
        .connect_timeout(timeouts.handshake)
        .max_payload(limits.message_bytes as u64)
        .ws_max_message_size(limits.message_bytes)
        .ws_max_frame_size(limits.message_bytes)
        .ws_read_buffer_size(WEBSOCKET_READ_BUFFER)
        .max_buffer_size(QUEUED_PACKETS)
        .with_adapter(state)
        .build_svc()
}

fn public_wires(metrics: &Metrics, write_stall: Duration, limiter: Arc<Limiter>) -> Arc<WireContext> {
    Arc::new(WireContext {
        write_stall,
        received: metrics.received_bytes.clone(),
        sent: metrics.sent_bytes.clone(),
        stalled: metrics.stalls.clone(),
        limiter: Some(limiter),
    })
}

async fn sweep(limiter: Arc<Limiter>) {
    let mut due = tokio::time::interval(SWEEP);
    loop {
        due.tick().await;
        limiter.sweep(limiter.now());
    }
}
