//! Names to addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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
            _ => self.resolve(&host.to_str()).await?,
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
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = 0;
        options.timeout = options.timeout.min(Duration::from_secs(5));
        let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let resolver = builder.build().map_err(no_answer)?;
        match resolver.lookup_ip(asked).await {
            Ok(found) => {
                let found: Vec<IpAddr> = found.iter().collect();
                if found.is_empty() {
                    return Err(NameError::NotFound { name: name.to_owned() });
                }
                Ok(found)
            }
            Err(error) if error.is_no_records_found() => {
                Err(NameError::NotFound { name: name.to_owned() })
            }
            Err(error) => Err(no_answer(error)),
        }
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
