// Relative, so that it also works behind a proxy with a prefix. No validator: it is a service on the internet.
SwaggerUIBundle({ url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null });
