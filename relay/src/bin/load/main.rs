//! The load generator of `make bench`, `make load` and `make soak`: an echo server, and players that measure what stands between them and it.
//!
//!     load echo PORT...
//!     load source PORT...
//!     load connections --to ADDRESS:PORT (--hello FILE | --tls NAME) --count N --at-once C
//!                      [--rate PER-SECOND] [--lasting SECONDS]
//!     load rounds      ...  --sessions C --count M --size S [--rate PER-SECOND]
//!     load bulk        ...  --sessions K --bytes B [--window W]
//!     load idle        ...  --sessions N
//!     load storm       ...  --sessions N --spread SECONDS
//!     load slow        ...  --sessions N --size BYTES-PER-SECOND
//!
//! `--hello` sends a `ClientHello` as it stands in a file (several one after another are taken in turn) and everything after
//! it in clear, for a proxy that passes TLS through. `--tls` speaks TLS 1.3 with one suite and one group, so that every
//! proxy does the same arithmetic, resumes nothing, and trusts everybody. Every byte that comes back is compared with what was sent.
//!
//! `source` is a game server that sends as fast as it can whatever it is told, and `slow` are its players.
//!
//! Results are JSON, one object per line. `rounds`, `bulk`, `idle` and `storm` first open their sessions, one exchange on
//! each, and print a line; each line that they are sent starts the work and is answered with a result; they end with their
//! input. `slow` does the same, and reads from its first line on until its end.

#![forbid(unsafe_code)]

mod crowd;
mod echo;
mod link;
mod slow;
mod source;
mod storm;
mod tally;
mod tls;
mod work;

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use lexopt::prelude::{Long, Short, Value, ValueExt};

use crate::link::Way;
use crate::work::Options;

type Failure = Box<dyn Error>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let mut arguments = lexopt::Parser::from_env();
    let Some(Value(command)) = arguments.next()? else {
        return Err("expected echo, source, connections, rounds, bulk, idle, storm or slow".into());
    };
    match command.to_str() {
        Some("echo") => echo::serve(&ports(arguments)?),
        Some("source") => source::serve(&ports(arguments)?),
        Some("connections") => work::connections(&options(arguments)?),
        Some("rounds") => work::rounds(&options(arguments)?),
        Some("bulk") => work::bulk(&options(arguments)?),
        Some("idle") => work::idle(&options(arguments)?),
        Some("storm") => storm::storm(&options(arguments)?),
        Some("slow") => slow::slow(&options(arguments)?),
        _ => Err(format!("{}: no such command", command.to_string_lossy()).into()),
    }
}

fn ports(mut arguments: lexopt::Parser) -> Result<Vec<u16>, Failure> {
    let mut ports = Vec::new();
    while let Some(argument) = arguments.next()? {
        match argument {
            Value(port) => ports.push(port.parse()?),
            _ => return Err(argument.unexpected().into()),
        }
    }
    Ok(ports)
}

fn options(mut arguments: lexopt::Parser) -> Result<Options, Failure> {
    let (mut to, mut way): (Option<SocketAddr>, Option<Way>) = (None, None);
    let mut options = Options::default();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("to") => to = Some(arguments.value()?.parse()?),
            Long("hello") => way = Some(Way::passing(&std::fs::read(arguments.value()?)?)?),
            Long("tls") => way = Some(Way::terminated(&arguments.value()?.string()?, false)?),
            Long("resume") => way = Some(Way::terminated(&arguments.value()?.string()?, true)?),
            Long("sessions" | "at-once") => options.sessions = arguments.value()?.parse()?,
            Long("count") => options.count = arguments.value()?.parse()?,
            Long("size") => options.size = arguments.value()?.parse()?,
            Long("bytes") => options.bytes = arguments.value()?.parse()?,
            Long("window") => options.window = arguments.value()?.parse()?,
            Long("rate") => options.rate = Some(arguments.value()?.parse()?),
            Long("lasting") => {
                let seconds = arguments.value()?.parse()?;
                options.lasting = Some(Duration::try_from_secs_f64(seconds)?);
            }
            Long("spread") => {
                options.spread = Duration::try_from_secs_f64(arguments.value()?.parse()?)?;
            }
            Long("deadline") => {
                options.deadline = Duration::try_from_secs_f64(arguments.value()?.parse()?)?;
            }
            Short(_) | Long(_) | Value(_) => return Err(argument.unexpected().into()),
        }
    }
    options.to = to.ok_or("--to is missing")?;
    options.way = Some(Arc::new(
        way.ok_or("--hello, --tls or --resume is missing")?,
    ));
    let none = options.sessions == 0 || options.size == 0 || options.window == 0;
    if none || options.rate.is_some_and(|rate| rate <= 0.0) {
        return Err("--sessions, --size, --window and --rate must be above 0".into());
    }
    Ok(options)
}
