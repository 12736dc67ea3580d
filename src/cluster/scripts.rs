//! The operations on Redis, one Lua file each (`cluster/lua/`), and how they are called: by their hash, and sent whole
//! when the server does not know them (after SCRIPT FLUSH, a restart, a failover).

use std::{sync::LazyLock, time::Duration};

use redis::{ErrorKind, RedisError, Script, ServerErrorKind, Value};

use super::connection::Connection;
use crate::metrics::{Metrics, RedisOperation};

/// An operation.
#[derive(Debug)]
pub struct Operation {
    code: &'static str,
    script: Script,
    kind: RedisOperation,
}

macro_rules! operations {
    ($($name:ident = $kind:ident: $($file:literal),+;)*) => {
        $(
            #[doc = concat!("See `cluster/lua/", $($file, " "),+, "`.")]
            pub static $name: LazyLock<Operation> = LazyLock::new(|| {
                let code = concat!($(include_str!(concat!("lua/", $file)), "\n"),+);
                Operation { code, script: Script::new(code), kind: RedisOperation::$kind }
            });
        )*
    };
}

operations! {
    ENTER = Enter: "common.lua", "regime.lua", "enter.lua";
    RENEW = Renew: "common.lua", "regime.lua", "renew.lua";
    JOIN = Join: "common.lua", "join.lua";
    LEAVE = Leave: "common.lua", "leave.lua";
    LOOK = Look: "common.lua", "look.lua";
    ASSERT = Assert: "common.lua", "assert.lua";
    SWEEP = Sweep: "common.lua", "sweep.lua";
    QUIT = Quit: "common.lua", "quit.lua";
    KEEP = Keep: "common.lua", "keep.lua";
    EXPIRE = Expire: "common.lua", "expire.lua";
}

/// Why an operation has no answer. It may have taken effect all the same, or may yet.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// What Redis, or the connection, says.
    #[error("{0}")]
    Redis(#[from] RedisError),
    /// Nothing, for too long.
    #[error("no answer in time")]
    Late,
    /// Something that the operation never answers.
    #[error("an answer of another form than expected")]
    Form,
}

impl Operation {
    /// Calls it over `connection`: one round trip, when the server knows it.
    ///
    /// # Errors
    /// [`CallError`]; a connection that is of no use any more has been given up then.
    pub async fn call(
        &self,
        connection: &Connection,
        keys: &[&str],
        arguments: &[&[u8]],
        patience: Duration,
        metrics: &Metrics,
    ) -> Result<Vec<Value>, CallError> {
        let timer = metrics.redis_seconds(self.kind).start_timer();
        let call = async {
            let _turn = match self.kind {
                // As many as there are peers.
                RedisOperation::Join | RedisOperation::Leave | RedisOperation::Expire | RedisOperation::Keep => {
                    connection.turns.acquire().await.ok()
                }
                _ => None,
            };
            self.try_call(connection, keys, arguments, metrics).await
        };
        let called = tokio::time::timeout(patience, call).await;
        timer.observe_duration();
        match called {
            Ok(Ok(Value::Array(answer))) => Ok(answer),
            Ok(Ok(single)) => Ok(vec![single]),
            Ok(Err(error)) => {
                connection.judge(&error);
                Err(error.into())
            }
            Err(_) => Err(CallError::Late),
        }
    }

    async fn try_call(
        &self,
        connection: &Connection,
        keys: &[&str],
        arguments: &[&[u8]],
        metrics: &Metrics,
    ) -> Result<Value, RedisError> {
        match self.evaluate(connection, "EVALSHA", self.script.get_hash(), keys, arguments).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                metrics.script_loads.inc();
                self.evaluate(connection, "EVAL", self.code, keys, arguments).await
            }
            called => called,
        }
    }

    async fn evaluate(
        &self,
        connection: &Connection,
        command: &str,
        script: &str,
        keys: &[&str],
        arguments: &[&[u8]],
    ) -> Result<Value, RedisError> {
        let mut command = redis::cmd(command);
        command.arg(script).arg(keys.len()).arg(keys).arg(arguments);
        let answer = connection.control.clone().send_packed_command(&command).await?;
        answer.extract_error()
    }
}

/// A text of an answer.
///
/// # Errors
/// When it is none.
pub fn text(value: Option<&Value>) -> Result<&str, CallError> {
    match value {
        Some(Value::BulkString(bytes)) => std::str::from_utf8(bytes).map_err(|_| CallError::Form),
        Some(Value::SimpleString(text)) => Ok(text),
        _ => Err(CallError::Form),
    }
}

/// A number of an answer.
///
/// # Errors
/// When it is none.
pub fn number(value: Option<&Value>) -> Result<i64, CallError> {
    match value {
        Some(Value::Int(number)) => Ok(*number),
        _ => Err(CallError::Form),
    }
}
