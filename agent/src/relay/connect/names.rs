//! Names to addresses.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Hosts, Resolver};
use rustls_pki_types::ServerName;

/// Most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;
/// How long the question for the other family may go on once one family has addresses. RFC 8305
/// section 3 suggests 50 ms; name servers far away take longer.
const OTHER_FAMILY: Duration = Duration::from_millis(500);

/// Why a name has no address.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NameError {
    /// The name servers know no address for it.
    #[error("there is no address for {name}; check the spelling, /etc/hosts and the DNS zone")]
    NotFound {
        /// The name.
        name: String,
    },
    /// The name servers could not be asked, or did not answer.
    #[error("cannot look up {name} ({detail}); check the name servers in /etc/resolv.conf")]
    NoAnswer {
        /// The name.
        name: String,
        /// What went wrong.
        detail: String,
    },
}

/// Where names are looked up.
#[derive(Debug)]
pub struct Names {
    /// In place of the system's, which is read for each lookup: networks change under a process
    /// that runs for months.
    servers: Option<(ResolverConfig, ResolverOpts)>,
}

impl Names {
    /// As the system's files say.
    pub fn of_system() -> Self {
        Self { servers: None }
    }

    #[cfg(test)]
    pub fn of_server(config: ResolverConfig, options: ResolverOpts) -> Self {
        Self { servers: Some((config, options)) }
    }

    /// The addresses of `host`, at least one.
    pub async fn lookup(
        &self,
        host: &ServerName<'static>,
        port: u16,
    ) -> Result<Vec<SocketAddr>, NameError> {
        let addresses = match host {
            ServerName::IpAddress(address) => vec![IpAddr::from(*address)],
            // Boxed, as each connection's future would hold it: the resolver's are 20 KiB.
            _ => Box::pin(self.resolve(&host.to_str())).await?,
        };
        Ok(addresses
            .into_iter()
            .take(MAX_ADDRESSES)
            .map(|address| SocketAddr::new(address, port))
            .collect())
    }

    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NameError> {
        if name == "localhost" || name.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let no_answer =
            |e: NetError| NameError::NoAnswer { name: name.to_owned(), detail: e.to_string() };
        let asked = Name::from_utf8(name).map_err(|e| no_answer(e.into()))?;
        let found = in_hosts_file(&asked);
        if !found.is_empty() {
            return Ok(found);
        }
        let (config, mut options) = match &self.servers {
            Some(servers) => servers.clone(),
            None => read_system_conf().map_err(no_answer)?,
        };
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = 0;
        options.timeout = options.timeout.min(Duration::from_secs(5));
        let family = |strategy| {
            let (config, mut options, asked) = (config.clone(), options.clone(), asked.clone());
            options.ip_strategy = strategy;
            addresses_of(config, options, asked)
        };
        let found =
            both_families(family(LookupIpStrategy::Ipv4Only), family(LookupIpStrategy::Ipv6Only))
                .await
                .map_err(no_answer)?;
        if found.is_empty() {
            return Err(NameError::NotFound { name: name.to_owned() });
        }
        Ok(found)
    }
}

/// The addresses of one family; none where the name has none.
async fn addresses_of(
    config: ResolverConfig,
    options: ResolverOpts,
    asked: Name,
) -> Result<Vec<IpAddr>, NetError> {
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    match builder.build()?.lookup_ip(asked).await {
        Ok(found) => Ok(found.iter().collect()),
        Err(error) if error.is_no_records_found() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The addresses of both families. Name servers that never answer for one of them are common: once
/// one family has addresses, the other has only a moment left.
async fn both_families(
    ipv4: impl Future<Output = Result<Vec<IpAddr>, NetError>>,
    ipv6: impl Future<Output = Result<Vec<IpAddr>, NetError>>,
) -> Result<Vec<IpAddr>, NetError> {
    let (mut ipv4, mut ipv6) = (pin!(ipv4), pin!(ipv6));
    let (first, second) = tokio::select! {
        first = &mut ipv4 => {
            let second = after(&first, ipv6).await;
            (first, second)
        }
        second = &mut ipv6 => {
            let first = after(&second, ipv4).await;
            (first, second)
        }
    };
    match (first, second) {
        (Ok(mut found), Ok(more)) => {
            found.extend(more);
            Ok(found)
        }
        (Ok(found), Err(_)) | (Err(_), Ok(found)) if !found.is_empty() => Ok(found),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

/// The answer for the other family, which waits for it no longer than the first answer allows.
async fn after(
    answered: &Result<Vec<IpAddr>, NetError>,
    other: impl Future<Output = Result<Vec<IpAddr>, NetError>>,
) -> Result<Vec<IpAddr>, NetError> {
    match answered {
        Ok(found) if !found.is_empty() => {
            tokio::time::timeout(OTHER_FAMILY, other).await.unwrap_or_else(|_| Ok(Vec::new()))
        }
        _ => other.await,
    }
}

/// What `/etc/hosts` says, which ends the search as it does elsewhere on the system.
fn in_hosts_file(name: &Name) -> Vec<IpAddr> {
    let Ok(hosts) = Hosts::from_system() else {
        return Vec::new();
    };
    [RecordType::A, RecordType::AAAA]
        .into_iter()
        .filter_map(|kind| hosts.lookup_static_host(&Query::query(name.clone(), kind)))
        .flat_map(|found| {
            found.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests;
