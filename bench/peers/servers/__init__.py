"""The peers' servers, each written the way its documentation shows. They run in their own venvs."""
