//! A server on an address that the command line gives.

use axum::Router;

use super::{
    listen::{BindAddress, Clients, Listening},
    places::Places,
};

#[derive(Debug)]
pub(super) struct Server {
    option: &'static str,
    address: BindAddress,
    router: Router,
    clients: Clients,
    places: Places,
    server: Option<Listening>,
    /// Why nobody listens.
    problem: Option<String>,
}

impl Server {
    pub(super) fn start(
        option: &'static str,
        address: BindAddress,
        router: Router,
        clients: Clients,
        places: Places,
    ) -> Self {
        let mut server = Self {
            option,
            address,
            router,
            clients,
            places,
            server: None,
            problem: None,
        };
        server.retry();
        server
    }

    /// Listens where that failed.
    pub(super) fn retry(&mut self) {
        let BindAddress(Some(address)) = self.address else {
            return;
        };
        if self.server.is_some() {
            return;
        }
        let router = self.router.clone();
        match Listening::start(address, router, self.clients, &self.places) {
            Ok(server) => {
                tracing::info!(%address, option = self.option, "listening");
                self.server = Some(server);
                self.problem = None;
            }
            Err(error) => {
                let problem = format!(
                    "{}: found {address}, cannot listen there: {error}, accepted: an address of this node with a free port",
                    self.option
                );
                if self.problem.as_ref() != Some(&problem) {
                    tracing::warn!("{problem}; will retry");
                }
                self.problem = Some(problem);
            }
        }
    }

    pub(super) fn problem(&self) -> Option<&String> {
        self.problem.as_ref()
    }
}
