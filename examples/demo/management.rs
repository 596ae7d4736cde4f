//! What a user of the demo can do about an error of RabbitMQ's management API.

use overdue_testkit::management::ManagementError;

use crate::Failure;

/// The error's text with the remedy.
pub fn explained(error: ManagementError) -> Failure {
    let remedy = match &error {
        ManagementError::Unreachable { .. } => {
            "; the demo needs it to create its own vhost: run `rabbitmq-plugins enable rabbitmq_management`, and set \
             OVERDUE_MANAGEMENT_URL to its address"
        }
        ManagementError::Refused { .. } => {
            ": the demo creates its own vhost and users, for which the user in AMQP_URL needs the tag `administrator` \
             (rabbitmqctl set_user_tags USER administrator)"
        }
        ManagementError::Status { .. } => "",
    };
    format!("{error}{remedy}").into()
}
